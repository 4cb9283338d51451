//! Cosignatures of checkpoints: C2SP tlog-cosignature, Ed25519 with the time of signing.
//!
//! Owns the message that a cosigner signs, and the text of its verifier key. Promises that a time is told only of a
//! cosignature that verified over the very text of the note. Never says anything of the log's own signature: that is
//! [`Checkpoint::verify`]'s part, and a note needs both. Failure story: [`BadNote`].

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use super::{BadNote, Checkpoint, ED25519_BYTES, is_key_name, key_id, parse_key, show_key};
use super::{signatures, split_note};
use crate::UnixMillis;

/// The signature type of timestamped Ed25519 cosignatures (C2SP signed-note, tlog-cosignature).
pub const COSIGNATURE_TYPE: u8 = 0x04;

/// The verifier key of a witness: `<name>+<hash>+<base64(0x04 ‖ key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignerKey {
    name: String,
    key: [u8; ED25519_BYTES],
}

/// What a cosigner signs for a checkpoint's body, at a time in seconds since 1970.
fn message(seconds: u64, body: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{body}")
}

impl Checkpoint {
    /// What a cosigner signs for this head, at a time in seconds since 1970 (C2SP tlog-cosignature).
    #[must_use]
    pub fn cosigned_message(&self, seconds: u64) -> String {
        message(seconds, &self.body())
    }
}

impl CosignerKey {
    /// Makes one from a name and an Ed25519 public key.
    ///
    /// # Errors
    /// [`BadNote::Malformed`] when the name is empty or has white space or `+`.
    pub fn new(name: &str, key: [u8; ED25519_BYTES]) -> Result<Self, BadNote> {
        if !is_key_name(name) {
            return Err(BadNote::Malformed(
                "a key's name is empty or has white space or '+'",
            ));
        }
        let name = name.to_owned();
        Ok(Self { name, key })
    }

    /// Reads the text form and checks its key hash.
    ///
    /// # Errors
    /// [`BadNote::Malformed`].
    pub fn parse(text: &str) -> Result<Self, BadNote> {
        let wrong_type = "the verifier key is not that of a witness (Ed25519 cosignatures, type 4)";
        let (name, key) = parse_key(text, COSIGNATURE_TYPE, wrong_type)?;
        Self::new(name, key)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key ID: the first octets of SHA-256(name ‖ 0x0A ‖ type ‖ key).
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, COSIGNATURE_TYPE, &self.key)
    }

    /// Verifies this witness's cosignature in a note and says when it was made; other signatures are passed over.
    ///
    /// # Errors
    /// [`BadNote`]: this witness does not vouch for the note.
    pub fn cosigned_at(&self, note: &str) -> Result<UnixMillis, BadNote> {
        let (text, lines) = split_note(note)?;
        for line in signatures(lines) {
            let (name, id, signature) = line?;
            if name != self.name || id != self.id() {
                continue;
            }
            let forged = || BadNote::Forged(self.name.clone());
            let (seconds, signature) = signature.split_first_chunk::<8>().ok_or_else(forged)?;
            let seconds = u64::from_be_bytes(*seconds);
            return UnparsedPublicKey::new(&ED25519, &self.key)
                .verify(message(seconds, text).as_bytes(), signature)
                .map(|()| UnixMillis::from_seconds(seconds))
                .map_err(|_| forged());
        }
        Err(BadNote::Unsigned(self.name.clone()))
    }
}

impl std::fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show_key(f, &self.name, COSIGNATURE_TYPE, &self.key)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64ct::{Base64, Encoding as _};

    use super::*;

    fn pair(seed: u8) -> (Ed25519KeyPair, CosignerKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = pair.public_key().as_ref().try_into().unwrap();
        (pair, CosignerKey::new("w.example/1", public).unwrap())
    }

    fn line(pair: &Ed25519KeyPair, key: &CosignerKey, head: &Checkpoint, seconds: u64) -> String {
        let signature = pair.sign(head.cosigned_message(seconds).as_bytes());
        let octets = [&key.id(), &seconds.to_be_bytes()[..], signature.as_ref()].concat();
        format!(
            "\u{2014} {} {}\n",
            key.name(),
            Base64::encode_string(&octets)
        )
    }

    fn head() -> Checkpoint {
        Checkpoint {
            origin: "log.example".into(),
            size: 7,
            root: [3; 32],
        }
    }

    /// The worked example of C2SP tlog-cosignature, which publishes no keys: only its framing can be compared.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\n\
        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/\
        Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2\
        oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    #[test]
    fn the_specifications_example_has_this_framing() {
        let (text, lines) = split_note(EXAMPLE).unwrap();
        let (name, id, signature) = signatures(lines).last().unwrap().unwrap();
        assert_eq!(
            (name, id),
            ("witness.example.com/w1", [0x8d, 0x66, 0xcf, 0x3f])
        );
        assert_eq!(signature.len(), 8 + 64);
        let seconds = u64::from_be_bytes(*signature.first_chunk().unwrap());
        let expected = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
            CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(message(seconds, text), expected);
    }

    #[test]
    fn a_cosignature_tells_its_time() {
        let (pair, key) = pair(1);
        let note = format!(
            "{}\n\u{2014} log.example AAAAAAAA\n{}",
            head().body(),
            line(&pair, &key, &head(), 1_700_000_000)
        );
        let at = UnixMillis::from_seconds(1_700_000_000);
        assert_eq!(key.cosigned_at(&note), Ok(at));
        assert_eq!(CosignerKey::parse(&key.to_string()), Ok(key));
    }

    #[test]
    fn whoever_else_signed_and_whatever_was_changed_is_refused() {
        let (pair_one, one) = pair(1);
        let (_, other) = pair(2);
        let signed = |body: &str, lines: &str| format!("{body}\n{lines}");
        let good = line(&pair_one, &one, &head(), 5);
        let note = signed(&head().body(), &good);
        assert_eq!(
            other.cosigned_at(&note),
            Err(BadNote::Unsigned("w.example/1".into()))
        );
        let changed = note.replacen("\n7\n", "\n8\n", 1);
        assert_eq!(
            one.cosigned_at(&changed),
            Err(BadNote::Forged("w.example/1".into()))
        );
        // The time is signed too.
        let octets = Base64::decode_vec(good.trim_end().rsplit(' ').next().unwrap()).unwrap();
        let later = [&octets[..4], &6_u64.to_be_bytes(), &octets[12..]].concat();
        let late = format!("\u{2014} w.example/1 {}\n", Base64::encode_string(&later));
        let short = format!(
            "\u{2014} w.example/1 {}\n",
            Base64::encode_string(&octets[..9])
        );
        for line in [late, short] {
            let refused = one.cosigned_at(&signed(&head().body(), &line));
            assert_eq!(
                refused,
                Err(BadNote::Forged("w.example/1".into())),
                "{line}"
            );
        }
        for broken in [
            "",
            "\n\n",
            "no note",
            "a\n\n\u{2014} x y\n",
            "a\n\n\u{2014} x AAA=\n",
        ] {
            assert!(one.cosigned_at(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn only_a_witnesss_key_is_one() {
        let (_, key) = pair(1);
        let text = key.to_string();
        let log = super::super::VerifierKey::new("w.example/1", [9; 32]).unwrap();
        assert!(CosignerKey::parse(&log.to_string()).is_err());
        assert!(super::super::VerifierKey::parse(&text).is_err());
        for bad in ["", "a+b", "w+00000000+BAAA", &text[..text.len() - 2]] {
            assert!(CosignerKey::parse(bad).is_err(), "{bad}");
        }
        let other_name = text.replacen("w.example/1", "w.example/2", 1);
        assert!(
            CosignerKey::parse(&other_name).is_err(),
            "the hash binds the name"
        );
    }
}
