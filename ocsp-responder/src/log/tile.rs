//! C2SP tlog-tiles: paths, hash tiles, entry bundles; and our detail bundles beside them.
//!
//! Owns the bytes and names of what is published file by file, and the [`Edge`] from which a writer
//! makes tiles. Promises that a parser accepts exactly what the encoder makes. Never touches a file.
//! Failure story: whatever does not parse is a [`BadTile`]; the reader treats the log as damaged.

mod edge;

pub use edge::Edge;

use super::merkle::Hash;
pub use super::merkle::TileAt;

/// Hashes, entries or details in a full tile.
pub const TILE_WIDTH: u64 = 256;

/// The width of a full tile, as paths and parsers take it.
pub const FULL: u16 = 256;

/// The path of a hash tile below `log/`: `tile/<L>/<N>[.p/<W>]`; `width` 256 is a full tile.
#[must_use]
pub fn hash_tile_path(level: u8, index: u64, width: u16) -> String {
    path(&format!("tile/{level}"), index, width)
}

/// The path of an entry bundle below `log/`: `tile/entries/<N>[.p/<W>]`.
#[must_use]
pub fn entry_bundle_path(index: u64, width: u16) -> String {
    path("tile/entries", index, width)
}

/// The path of a detail bundle below `private/`: `details/<N>[.p/<W>]`.
#[must_use]
pub fn detail_bundle_path(index: u64, width: u16) -> String {
    path("details", index, width)
}

/// `<base>/<N>[.p/<W>]`: N in groups of three digits, all but the last with an `x` before them.
fn path(base: &str, index: u64, width: u16) -> String {
    let mut groups = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        groups = format!("x{:03}/{groups}", rest % 1000);
        rest /= 1000;
    }
    if width >= FULL {
        format!("{base}/{groups}")
    } else {
        format!("{base}/{groups}.p/{width}")
    }
}

/// How wide tile or bundle `index` of a level with `count` hashes is; 0 when it does not exist.
#[must_use]
pub fn width_in(count: u64, index: u64) -> u16 {
    let left = count
        .saturating_sub(index.saturating_mul(TILE_WIDTH))
        .min(TILE_WIDTH);
    u16::try_from(left).unwrap_or(FULL)
}

/// Encodes a hash tile: the hashes, one after another.
#[must_use]
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// A tile or bundle is not what its path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tile or bundle is truncated, over-long or malformed")]
pub struct BadTile;

/// Reads a hash tile of exactly `width` hashes.
///
/// # Errors
/// [`BadTile`]: the tile is damaged; try another source or treat the log as damaged.
pub fn parse_hashes(bytes: &[u8], width: u16) -> Result<Vec<Hash>, BadTile> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() != usize::from(width) || !(1..=FULL).contains(&width) {
        return Err(BadTile);
    }
    Ok(hashes.to_vec())
}

/// Encodes an entry bundle: for each leaf a big-endian 16-bit length and its bytes.
///
/// A leaf has at most [`LEAF_BYTES_MAX`](super::entry::LEAF_BYTES_MAX) bytes, so its length fits; of a
/// longer one only 65,535 bytes would be written, which its hash in the tree then convicts.
#[must_use]
pub fn encode_entries<'a>(leaves: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bundle = Vec::new();
    for leaf in leaves {
        let length = u16::try_from(leaf.len()).unwrap_or(u16::MAX);
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend(leaf.iter().take(usize::from(length)));
    }
    bundle
}

/// Reads an entry bundle of exactly `width` leaves.
///
/// # Errors
/// [`BadTile`]: the bundle is damaged; try another source or treat the log as damaged.
pub fn parse_entries(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, BadTile> {
    if !(1..=FULL).contains(&width) {
        return Err(BadTile);
    }
    let mut leaves = Vec::with_capacity(usize::from(width));
    let mut rest = bytes;
    for _ in 0..width {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(BadTile)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (leaf, after) = after.split_at_checked(length).ok_or(BadTile)?;
        leaves.push(leaf);
        rest = after;
    }
    if rest.is_empty() {
        Ok(leaves)
    } else {
        Err(BadTile)
    }
}

/// Encodes a detail bundle: a line for each leaf that has a detail, `<index> <canonical JSON>\n`.
#[must_use]
pub fn encode_details<'a>(details: impl Iterator<Item = (u64, &'a [u8])>) -> Vec<u8> {
    let mut bundle = Vec::new();
    for (index, detail) in details {
        bundle.extend_from_slice(index.to_string().as_bytes());
        bundle.push(b' ');
        bundle.extend_from_slice(detail);
        bundle.push(b'\n');
    }
    bundle
}

/// Reads a detail bundle: indexes ascending, each within the bundle.
///
/// # Errors
/// [`BadTile`]: the bundle is damaged; try another source or treat the details as lost.
pub fn parse_details(bytes: &[u8], bundle: u64) -> Result<Vec<(u64, &[u8])>, BadTile> {
    let mut details: Vec<(u64, &[u8])> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|octet| *octet == b'\n')
            .ok_or(BadTile)?;
        let (line, after) = rest.split_at_checked(end).ok_or(BadTile)?;
        let space = line
            .iter()
            .position(|octet| *octet == b' ')
            .ok_or(BadTile)?;
        let (index, detail) = line.split_at_checked(space).ok_or(BadTile)?;
        let index = decimal(index).ok_or(BadTile)?;
        let ascending = details.last().is_none_or(|(before, _)| *before < index);
        let detail = detail
            .get(1..)
            .filter(|detail| !detail.is_empty())
            .ok_or(BadTile)?;
        if !ascending || index / TILE_WIDTH != bundle {
            return Err(BadTile);
        }
        details.push((index, detail));
        rest = after.get(1..).unwrap_or_default();
    }
    Ok(details)
}

/// Reads a decimal number in its one form: no sign, no leading zeros.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let plain =
        digits.iter().all(u8::is_ascii_digit) && (digits == b"0" || !digits.starts_with(b"0"));
    if !plain {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        // c2sp.org/tlog-tiles: "index 1234067 will be encoded as x001/x234/067".
        assert_eq!(hash_tile_path(0, 1_234_067, FULL), "tile/0/x001/x234/067");
        assert_eq!(hash_tile_path(0, 273, 112), "tile/0/273.p/112");
        assert_eq!(hash_tile_path(2, 0, 1), "tile/2/000.p/1");
        assert_eq!(hash_tile_path(7, 1000, 255), "tile/7/x001/000.p/255");
        assert_eq!(entry_bundle_path(999, FULL), "tile/entries/999");
        assert_eq!(
            entry_bundle_path(1_000_000, FULL),
            "tile/entries/x001/x000/000"
        );
        assert_eq!(detail_bundle_path(12, 3), "details/012.p/3");
    }

    #[test]
    fn a_tree_of_70_000_has_the_widths_of_the_specification() {
        assert_eq!(
            (
                width_in(70_000, 272),
                width_in(70_000, 273),
                width_in(70_000, 274)
            ),
            (256, 112, 0)
        );
        assert_eq!(
            (width_in(273, 0), width_in(273, 1), width_in(1, 0)),
            (256, 17, 1)
        );
        assert_eq!(width_in(u64::MAX, u64::MAX), 0);
    }

    #[test]
    fn details_are_checked_line_by_line() {
        let bytes = b"256 {\"a\":1}\n300 {}\n";
        let parsed = parse_details(bytes, 1).unwrap();
        assert_eq!(parsed, [(256, &b"{\"a\":1}"[..]), (300, &b"{}"[..])]);
        assert_eq!(parse_details(b"", 1), Ok(Vec::new()));
        for bad in [
            "256 {}",
            "300 {}\n256 {}\n",
            "256 {}\n256 {}\n",
            "0256 {}\n",
            "+256 {}\n",
        ] {
            assert_eq!(parse_details(bad.as_bytes(), 1), Err(BadTile), "{bad:?}");
        }
        for bad in [
            "512 {}\n",
            "255 {}\n",
            "256\n",
            "256 \n",
            " {}\n",
            "\n",
            "256 {}\n\n",
        ] {
            assert_eq!(parse_details(bad.as_bytes(), 1), Err(BadTile), "{bad:?}");
        }
    }

    #[test]
    fn widths_must_be_exact() {
        assert_eq!(parse_hashes(&[0; 64], 2).unwrap().len(), 2);
        for (length, width) in [(64, 1), (64, 3), (63, 2), (0, 0), (257 * 32, 257)] {
            assert_eq!(
                parse_hashes(&vec![0; length], width),
                Err(BadTile),
                "{length} {width}"
            );
        }
        let bundle = encode_entries([&b"one"[..], b"two"].into_iter());
        assert_eq!(bundle, b"\x00\x03one\x00\x03two");
        assert_eq!(parse_entries(&bundle, 2).unwrap(), [b"one", b"two"]);
        for width in [0, 1, 3, 257] {
            assert_eq!(parse_entries(&bundle, width), Err(BadTile), "{width}");
        }
    }

    proptest! {
        #[test]
        fn bundles_round_trip(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..=256)) {
            let bundle = encode_entries(leaves.iter().map(Vec::as_slice));
            let width = u16::try_from(leaves.len()).unwrap();
            prop_assert_eq!(parse_entries(&bundle, width).unwrap(), leaves.clone());
            prop_assert_eq!(parse_entries(&bundle, width + 1), Err(BadTile));
        }

        #[test]
        fn no_bytes_break_a_parser(bytes: Vec<u8>, width: u16, bundle in 0u64..3) {
            let _ = parse_hashes(&bytes, width);
            if let Ok(leaves) = parse_entries(&bytes, width % 4) {
                prop_assert_eq!(encode_entries(leaves.into_iter()), bytes.clone());
            }
            if let Ok(details) = parse_details(&bytes, bundle) {
                prop_assert_eq!(encode_details(details.into_iter()), bytes);
            }
        }

        #[test]
        fn detail_lines_that_parse_are_canonical(text in "([0-9]{1,4} ?[{}a-z]{0,4}\n?){0,4}", bundle in 0u64..3) {
            if let Ok(details) = parse_details(text.as_bytes(), bundle) {
                prop_assert_eq!(encode_details(details.into_iter()), text.into_bytes());
            }
        }
    }
}
