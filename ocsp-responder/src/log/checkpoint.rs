//! Checkpoints: C2SP tlog-checkpoint bodies in C2SP signed notes, Ed25519.
//!
//! Owns the text of heads and verifier keys. Promises that nothing of a note is believed before its
//! signature verified, and that a body has one form: three lines, no extension lines. Never signs: the
//! caller brings the signature. Failure story: [`BadNote`] tells a foreign note from a forged one, since
//! only the second means an attack or a damaged file.

mod cosignature;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64ct::{Base64, Encoding as _};

use super::merkle::Hash;
use super::tile::decimal;
pub use cosignature::{COSIGNATURE_TYPE, CosignerKey};

/// The longest note in bytes: room for a log's signature and dozens of post-quantum cosignatures.
pub const NOTE_BYTES_MAX: usize = 1 << 18;

/// The signature type of plain Ed25519 (C2SP signed-note).
const ED25519_TYPE: u8 = 0x01;

/// An Ed25519 public key in octets.
const ED25519_BYTES: usize = 32;

/// What begins a signature line: em dash, space.
const SIGNATURE_MARK: &str = "\u{2014} ";

/// What a checkpoint states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The origin line.
    pub origin: String,
    /// The tree's size.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
}

/// A verifier key in signed-note form: `<name>+<hash>+<base64(0x01 ‖ key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

/// Why a note is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNote {
    /// The text is not a signed note with a checkpoint body.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// No signature by this key.
    #[error("no signature by the key {0}")]
    Unsigned(String),
    /// The signature by this key does not verify.
    #[error("the signature by the key {0} does not verify")]
    Forged(String),
    /// Another log's checkpoint.
    #[error("the checkpoint is of the log {0}")]
    Origin(String),
}

impl VerifierKey {
    /// Makes one from a name (the log's origin) and an Ed25519 public key.
    ///
    /// # Errors
    /// [`BadNote::Malformed`] when the name is empty or has white space or `+`.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, BadNote> {
        if !is_key_name(name) {
            return Err(BadNote::Malformed(
                "a key's name is empty or has white space or '+'",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// Reads the text form and checks its key hash.
    ///
    /// # Errors
    /// [`BadNote::Malformed`].
    pub fn parse(text: &str) -> Result<Self, BadNote> {
        let wrong_type = "the verifier key is not of the type Ed25519";
        let (name, key) = parse_key(text, ED25519_TYPE, wrong_type)?;
        Self::new(name, key)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    #[must_use]
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo (RFC 8410, 4): how a token's key is found by it.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        /// The DER before the 32 octets of the key.
        const PREFIX: [u8; 12] = [0x30, 42, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 33, 0];
        super::DetailHash::of(&[PREFIX.as_slice(), &self.key].concat()).0
    }

    /// The key ID: the first octets of SHA-256(name ‖ 0x0A ‖ type ‖ key).
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, ED25519_TYPE, &self.key)
    }

    /// Verifies a signed note and returns its text; signatures by other keys are passed over.
    fn open<'a>(&self, note: &'a str) -> Result<&'a str, BadNote> {
        let (text, lines) = split_note(note)?;
        for line in signatures(lines) {
            let (name, id, signature) = line?;
            if name != self.name || id != self.id() {
                continue;
            }
            let key = UnparsedPublicKey::new(&ED25519, &self.key);
            return match key.verify(text.as_bytes(), &signature) {
                Ok(()) => Ok(text),
                Err(_) => Err(BadNote::Forged(self.name.clone())),
            };
        }
        Err(BadNote::Unsigned(self.name.clone()))
    }
}

impl VerifierKey {
    /// The note with this key's line as its only one: whoever passes a note on can add lines, false ones by any name.
    ///
    /// # Errors
    /// [`BadNote`]: this key did not sign it.
    pub fn alone(&self, note: &str) -> Result<String, BadNote> {
        let text = self.open(note)?;
        let (_, lines) = split_note(note)?;
        // The first by this key: the one that was verified.
        let own = lines.split_terminator('\n').find(|line| {
            parse_signature(line)
                .is_ok_and(|(name, octets)| name == self.name && octets.starts_with(&self.id()))
        });
        Ok(format!("{text}\n{}\n", own.unwrap_or_default()))
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show_key(f, &self.name, ED25519_TYPE, &self.key)
    }
}

/// Reads a verifier key of one type: its name, and the public key whose hash the text has.
fn parse_key<'a>(
    text: &'a str,
    signature_type: u8,
    wrong_type: &'static str,
) -> Result<(&'a str, [u8; ED25519_BYTES]), BadNote> {
    let parts = text.split_once('+').and_then(|(name, rest)| {
        let (id, key) = rest.split_once('+')?;
        Some((name, id, key))
    });
    let (name, id, key) = parts.ok_or(BadNote::Malformed(
        "a verifier key is <name>+<hash>+<base64>",
    ))?;
    let octets = Base64::decode_vec(key)
        .map_err(|_| BadNote::Malformed("the key in a verifier key is not base64"))?;
    let octets = match octets.split_first() {
        Some((found, octets)) if *found == signature_type => octets,
        _ => return Err(BadNote::Malformed(wrong_type)),
    };
    let key = octets
        .try_into()
        .map_err(|_| BadNote::Malformed("an Ed25519 verifier key has 32 octets"))?;
    if crate::hex::encode(&key_id(name, signature_type, &key)) != id {
        return Err(BadNote::Malformed(
            "the hash in the verifier key is not that of its key",
        ));
    }
    Ok((name, key))
}

/// Writes a verifier key in its text form.
fn show_key(
    f: &mut std::fmt::Formatter<'_>,
    name: &str,
    signature_type: u8,
    key: &[u8; ED25519_BYTES],
) -> std::fmt::Result {
    let id = crate::hex::encode(&key_id(name, signature_type, key));
    let typed = [&[signature_type], key.as_slice()].concat();
    write!(f, "{name}+{id}+{}", Base64::encode_string(&typed))
}

/// The key ID (C2SP signed-note): the first octets of SHA-256(name ‖ 0x0A ‖ type ‖ key).
fn key_id(name: &str, signature_type: u8, key: &[u8; ED25519_BYTES]) -> [u8; 4] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(name.as_bytes());
    context.update(&[b'\n', signature_type]);
    context.update(key);
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// Whether a text can name a key: not empty, no white space, no control character, no `+`.
fn is_key_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// Splits a note at its last empty line into the signed text and the signature lines.
fn split_note(note: &str) -> Result<(&str, &str), BadNote> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(BadNote::Malformed("the note is too long"));
    }
    if note.bytes().any(|octet| octet < 0x20 && octet != b'\n') {
        return Err(BadNote::Malformed("a control character"));
    }
    let end = note
        .rfind("\n\n")
        .ok_or(BadNote::Malformed("no empty line before signatures"))?;
    let (text, rest) = note.split_at_checked(end + 1).unwrap_or_default();
    let signatures = rest.strip_prefix('\n').unwrap_or_default();
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(BadNote::Malformed(
            "no signature line, or the last one is cut off",
        ));
    }
    Ok((text, signatures))
}

/// The signatures of a note: each key's name, its ID, and the octets after the ID.
fn signatures(lines: &str) -> impl Iterator<Item = Result<(&str, [u8; 4], Vec<u8>), BadNote>> {
    lines.split_terminator('\n').map(|line| {
        let (name, octets) = parse_signature(line)?;
        let Some((id, signature)) = octets.split_first_chunk::<4>() else {
            return Err(BadNote::Malformed(
                "a signature is too short for its key ID",
            ));
        };
        Ok((name, *id, signature.to_vec()))
    })
}

/// Reads a signature line: the key's name, and the octets of key ID and signature.
fn parse_signature(line: &str) -> Result<(&str, Vec<u8>), BadNote> {
    let parts = line
        .strip_prefix(SIGNATURE_MARK)
        .and_then(|rest| rest.split_once(' '));
    let (name, signature) = parts.ok_or(BadNote::Malformed("a signature line is malformed"))?;
    if !is_key_name(name) {
        return Err(BadNote::Malformed("a signature line has no key name"));
    }
    let octets = Base64::decode_vec(signature)
        .map_err(|_| BadNote::Malformed("a signature is not base64"))?;
    Ok((name, octets))
}

impl Checkpoint {
    /// The note's body: origin, size, base64 root, each with a newline. These bytes are signed.
    #[must_use]
    pub fn body(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            Base64::encode_string(&self.root)
        )
    }

    /// The whole signed note, from the Ed25519 signature (64 octets) over [`Self::body`].
    #[must_use]
    pub fn to_note(&self, key: &VerifierKey, signature: &[u8; 64]) -> String {
        let mut octets = key.id().to_vec();
        octets.extend_from_slice(signature);
        let signature = Base64::encode_string(&octets);
        format!(
            "{}\n{SIGNATURE_MARK}{} {signature}\n",
            self.body(),
            key.name
        )
    }

    /// Reads a signed note and verifies the log's signature; other signatures (cosigners) are passed over.
    ///
    /// # Errors
    /// [`BadNote`]: believe nothing of the note; `Forged` means an attack or a damaged file.
    pub fn verify(note: &str, key: &VerifierKey) -> Result<Self, BadNote> {
        let checkpoint = Self::parse_body(key.open(note)?)?;
        if checkpoint.origin != key.name {
            return Err(BadNote::Origin(checkpoint.origin));
        }
        Ok(checkpoint)
    }

    /// Reads a body: exactly three lines, each in its one form.
    fn parse_body(text: &str) -> Result<Self, BadNote> {
        let mut lines = text.split_terminator('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(BadNote::Malformed(
                "a checkpoint has three lines: origin, size, root",
            ));
        };
        if origin.is_empty() {
            return Err(BadNote::Malformed("the origin line is empty"));
        }
        let size = decimal(size.as_bytes())
            .ok_or(BadNote::Malformed("the size is not a plain decimal number"))?;
        let root = Base64::decode_vec(root)
            .ok()
            .and_then(|octets| octets.try_into().ok());
        let root = root.ok_or(BadNote::Malformed("the root is not 32 octets of base64"))?;
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use proptest::prelude::*;

    use super::*;

    fn keys(name: &str, seed: [u8; 32]) -> (Ed25519KeyPair, VerifierKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = pair.public_key().as_ref().try_into().unwrap();
        (pair, VerifierKey::new(name, public).unwrap())
    }

    fn signed(checkpoint: &Checkpoint, pair: &Ed25519KeyPair, key: &VerifierKey) -> String {
        let signature = pair.sign(checkpoint.body().as_bytes());
        checkpoint.to_note(key, signature.as_ref().try_into().unwrap())
    }

    fn sample() -> (Checkpoint, Ed25519KeyPair, VerifierKey) {
        let (pair, key) = keys("log.example/factory", [7; 32]);
        let origin = "log.example/factory".to_owned();
        (
            Checkpoint {
                origin,
                size: 20_852_163,
                root: [0xaa; 32],
            },
            pair,
            key,
        )
    }

    #[test]
    fn a_note_by_another_implementation_verifies() {
        // The key and note that the documentation of Go's sumdb/note package shows.
        let seed = Base64::decode_vec("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        let (_, key) = keys("PeterNeumann", seed[1..].try_into().unwrap());
        assert_eq!(crate::hex::encode(&key.id()), "c74f20a3");
        let note = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n\n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNX\
            gKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert!(key.open(note).unwrap().ends_with("what your problem is.\n"));
        let refused = Checkpoint::verify(note, &key);
        assert!(matches!(refused, Err(BadNote::Malformed(_))), "{refused:?}");
        let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        let key = VerifierKey::parse(text).unwrap();
        assert_eq!(key.to_string(), text);
        let note = "This is an example message.\n\n\
            \u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZX\
            sYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
        assert_eq!(key.open(note), Ok("This is an example message.\n"));
    }

    #[test]
    fn a_checkpoint_round_trips_with_cosigners() {
        let (checkpoint, pair, key) = sample();
        let note = signed(&checkpoint, &pair, &key);
        assert_eq!(Checkpoint::verify(&note, &key).as_ref(), Ok(&checkpoint));
        assert!(note.starts_with("log.example/factory\n20852163\nqqqq"));
        // A cosignature line of the C2SP tlog-cosignature specification, of another type and length.
        let cosigned = format!(
            "{note}\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5\
            OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
        );
        assert_eq!(Checkpoint::verify(&cosigned, &key), Ok(checkpoint));
        assert_eq!(VerifierKey::parse(&key.to_string()).as_ref(), Ok(&key));
    }

    #[test]
    fn forged_and_foreign_notes_are_told_apart() {
        let (checkpoint, pair, key) = sample();
        let note = signed(&checkpoint, &pair, &key);
        let forged = note.replacen("20852163", "20852164", 1);
        assert_eq!(
            Checkpoint::verify(&forged, &key),
            Err(BadNote::Forged(key.name.clone()))
        );
        let (_, other) = keys("log.example/factory", [8; 32]);
        assert_eq!(
            Checkpoint::verify(&note, &other),
            Err(BadNote::Unsigned(key.name.clone()))
        );
        let foreign = Checkpoint {
            origin: "other.example".into(),
            ..checkpoint
        };
        let note = signed(&foreign, &pair, &key);
        assert_eq!(
            Checkpoint::verify(&note, &key),
            Err(BadNote::Origin("other.example".into()))
        );
    }

    #[test]
    fn other_forms_of_a_note_are_refused() {
        let (checkpoint, pair, key) = sample();
        let sign = |body: &str| {
            let mut octets = key.id().to_vec();
            octets.extend_from_slice(pair.sign(body.as_bytes()).as_ref());
            format!(
                "{body}\n\u{2014} {} {}\n",
                key.name,
                Base64::encode_string(&octets)
            )
        };
        let body = checkpoint.body();
        assert!(Checkpoint::verify(&sign(&body), &key).is_ok());
        let bodies = [
            body.replace("20852163", "020852163"),
            body.replace("20852163", "+20852163"),
            body.replace("20852163", "99999999999999999999"),
            body.replace("qqo=", "qqo"),
            body.replace("log.example/factory", ""),
            format!("{body}extension\n"),
            format!("\n{body}"),
            "log.example/factory\n".into(),
            "\n".into(),
        ];
        for body in bodies {
            let refused = Checkpoint::verify(&sign(&body), &key);
            assert!(
                matches!(refused, Err(BadNote::Malformed(_))),
                "{body:?} {refused:?}"
            );
        }
        let note = sign(&body);
        let notes = [
            note.trim_end().to_owned(),
            note.replace("\n\n", "\n"),
            note.replace('\u{2014}', "-"),
            note.replace("log.example", "log\texample"),
            format!("{note}\n"),
            format!("{note}{}\n", "x".repeat(NOTE_BYTES_MAX)),
            body,
        ];
        for note in notes {
            let refused = Checkpoint::verify(&note, &key);
            assert!(
                matches!(refused, Err(BadNote::Malformed(_))),
                "{note:?} {refused:?}"
            );
        }
    }

    #[test]
    fn verifier_keys_are_checked() {
        let text = sample().2.to_string();
        let (name, rest) = text.split_once('+').unwrap();
        for bad in [
            rest.to_owned(),
            format!("other+{rest}"),
            format!("+{rest}"),
            format!("{text}A"),
            text.to_uppercase(),
            format!("{text}\n"),
            name.to_owned(),
        ] {
            assert!(
                matches!(VerifierKey::parse(&bad), Err(BadNote::Malformed(_))),
                "{bad:?}"
            );
        }
        assert!(VerifierKey::new("two words", [0; 32]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_parser(text: String, at: prop::sample::Index, octet in 0u8..128) {
            let (checkpoint, pair, key) = sample();
            prop_assert!(Checkpoint::verify(&text, &key).is_err());
            let _ = VerifierKey::parse(&text);
            // A note with one changed octet is never believed to state something else.
            let mut note = signed(&checkpoint, &pair, &key).into_bytes();
            let at = at.index(note.len());
            note[at] = octet;
            if let Ok(note) = String::from_utf8(note)
                && let Ok(read) = Checkpoint::verify(&note, &key)
            {
                prop_assert_eq!(read, checkpoint);
            }
        }
    }
}
