//! Reads a published log by its documented format (docs/LOG-FORMAT.md), with nothing of the product's code.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Places in a bundle.
const BUNDLE: usize = 256;

/// An entry's leaf with its detail.
pub struct Entry {
    /// The leaf.
    pub leaf: Value,
    /// The detail, where the entry has one.
    pub detail: Value,
}

/// All entries of a site's log, in order.
pub fn entries(site: &Path) -> Vec<Entry> {
    try_entries(site).unwrap()
}

/// The same of a log that is being published: a bundle may be gone, since there is a wider one.
pub fn try_entries(site: &Path) -> std::io::Result<Vec<Entry>> {
    let checkpoint = std::fs::read_to_string(site.join("public/log/checkpoint"))?;
    let size: usize = checkpoint.lines().nth(1).unwrap().parse().unwrap();
    let mut found = Vec::with_capacity(size);
    for first in (0..size).step_by(BUNDLE) {
        let width = BUNDLE.min(size - first);
        let leaves = std::fs::read(bundle(&site.join("public/log/tile/entries"), first, width))?;
        let details =
            std::fs::read(bundle(&site.join("private/details"), first, width)).unwrap_or_default();
        let details = String::from_utf8(details).unwrap();
        let mut rest = leaves.as_slice();
        for index in first..first + width {
            let (length, after) = rest.split_at(2);
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let (leaf, after) = after.split_at(length);
            rest = after;
            let prefix = format!("{index} ");
            let detail = details.lines().find_map(|line| line.strip_prefix(&prefix));
            found.push(Entry {
                leaf: serde_json::from_slice(leaf).unwrap(),
                detail: detail.map_or(Value::Null, |text| serde_json::from_str(text).unwrap()),
            });
        }
    }
    Ok(found)
}

/// The file of the bundle that begins with this entry: as wide as wanted, or the full one.
fn bundle(directory: &Path, first: usize, width: usize) -> PathBuf {
    let number = first / BUNDLE;
    assert!(number < 1000, "a test's log is short");
    let full = directory.join(format!("{number:03}"));
    if width == BUNDLE || full.is_file() {
        return full;
    }
    directory.join(format!("{number:03}.p/{width}"))
}

/// SHA-256 as the log writes it: 64 lower-case hex digits.
pub fn sha256(octets: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    let digest = digest.as_ref().iter();
    digest.map(|octet| format!("{octet:02x}")).collect()
}
