//! The files that a broker reads: their names, their form, and putting them in place whole.
//!
//! Owns what is in them. Promises that a file is replaced in one step by one that is on disk already, that it is read back
//! before anybody is told of it, and that a file which says the right thing already is left alone. Never judges a CRL.
//! Failure story: an error leaves the old file; nobody is told of anything.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use der::pem::{self, LineEnding};
use der::{Decode as _, Reader as _, SliceReader, Tag};

use super::issuer::{Crl, Issuer};
use crate::crl::CRL_BYTES_MAX;
use crate::durable::{self, Access};
use crate::regular;
use crate::signature::tlv;

/// The label of a CRL in PEM (RFC 7468, section 6).
const LABEL: &str = "X509 CRL";
/// The line before one.
const BEGIN: &str = "-----BEGIN X509 CRL-----";
/// The line after one.
const END: &str = "-----END X509 CRL-----";

/// How CRLs are encoded in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// PEM (RFC 7468).
    Pem,
    /// DER.
    Der,
}

/// Where CRLs are put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One file of all CRLs in PEM, one after the other.
    OneFile(PathBuf),
    /// A directory with NAME.crl (DER) or NAME.pem for each.
    Named {
        /// The directory.
        directory: PathBuf,
        /// What is in the files.
        encoding: Encoding,
    },
    /// A directory with HASH.rN (PEM) for each: the name hash of the issuer, as OpenSSL and Erlang look for it.
    Hashed(PathBuf),
}

/// A file as it is to be.
#[derive(Debug)]
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub octets: Vec<u8>,
}

impl Target {
    /// The file of each issuer, in their order; with [`Self::OneFile`] it is the same for all.
    pub fn paths(&self, issuers: &[&Issuer]) -> Vec<PathBuf> {
        let mut taken: Vec<String> = Vec::new();
        let path = |issuer: &&Issuer| match self {
            Self::OneFile(path) => path.clone(),
            Self::Named {
                directory,
                encoding: Encoding::Pem,
            } => directory.join(format!("{}.pem", issuer.name)),
            Self::Named {
                directory,
                encoding: Encoding::Der,
            } => directory.join(format!("{}.crl", issuer.name)),
            Self::Hashed(directory) => {
                let hash = name_hash(&issuer.subject);
                // Issuers of one name, such as one with a new key, are numbered.
                let number = taken.iter().filter(|other| **other == hash).count();
                let file = directory.join(format!("{hash}.r{number}"));
                taken.push(hash);
                file
            }
        };
        issuers.iter().map(path).collect()
    }

    /// The files with these CRLs in them; an issuer without a CRL has no file, or no part in the one.
    ///
    /// In a file of all CRLs those of other issuers stay as they are, after these: they are somebody else's.
    pub fn wanted(&self, issuers: &[&Issuer], crls: &[Option<&Crl>]) -> Vec<Wanted> {
        let mut files: Vec<Wanted> = Vec::new();
        for (path, crl) in self.paths(issuers).into_iter().zip(crls) {
            let Some(crl) = crl else { continue };
            let octets = self.encode(&crl.der);
            match files.iter_mut().find(|file| file.path == path) {
                Some(file) => file.octets.extend(octets),
                None => files.push(Wanted { path, octets }),
            }
        }
        if let (Self::OneFile(path), [file]) = (self, &mut *files) {
            let names: Vec<&[u8]> = issuers.iter().map(|issuer| &*issuer.subject).collect();
            let others = read(path)
                .into_iter()
                .filter(|der| issuer_name(der).is_ok_and(|name| !names.contains(&name)));
            others.for_each(|der| file.octets.extend(self.encode(&der)));
        }
        files
    }

    /// A CRL in the form of these files.
    fn encode(&self, der: &[u8]) -> Vec<u8> {
        match self {
            Self::Named {
                encoding: Encoding::Der,
                ..
            } => der.to_vec(),
            // Only a length beyond any CRL's could fail.
            _ => pem::encode_string(LABEL, LineEnding::LF, der)
                .unwrap_or_default()
                .into_bytes(),
        }
    }
}

impl Wanted {
    /// Whether the file says just this already.
    pub fn is_in_place(&self) -> bool {
        use std::io::Read as _;
        let Ok((file, metadata)) = regular::open(&self.path) else {
            return false;
        };
        let length = self.octets.len() as u64;
        let mut found = Vec::new();
        metadata.len() == length
            && file.take(length + 1).read_to_end(&mut found).is_ok()
            && found == self.octets
    }

    /// Puts it in place, and makes sure that it is what a reader gets.
    ///
    /// # Errors
    /// The system's error: nobody may be told.
    pub fn put(&self, access: Access) -> io::Result<()> {
        durable::write_for(&self.path, access, &self.octets)?;
        if self.is_in_place() {
            return Ok(());
        }
        Err(io::Error::other(
            "what is read back is not what was written: does another program write it?",
        ))
    }
}

/// The CRLs (DER) in a file, which may be a PEM file with several, one in DER, or missing.
///
/// What is damaged is left out: it is written anew.
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    use std::io::Read as _;
    let mut octets = Vec::new();
    // PEM takes a third more; a file of several issuers may be as long as all of theirs.
    let limit = 4 * CRL_BYTES_MAX as u64;
    let read = regular::open(path).and_then(|(file, _)| file.take(limit).read_to_end(&mut octets));
    if read.is_err() {
        return Vec::new();
    }
    let Some(mut text) = std::str::from_utf8(&octets)
        .ok()
        .filter(|text| text.contains(BEGIN))
    else {
        return vec![octets];
    };
    let mut found = Vec::new();
    while let Some(begin) = text.find(BEGIN) {
        let rest = text.get(begin..).unwrap_or_default();
        let Some(end) = rest.find(END) else { break };
        let (block, after) = rest.split_at(end + END.len());
        if let Ok((LABEL, der)) = pem::decode_vec(block.as_bytes()) {
            found.push(der);
        }
        text = after;
    }
    found
}

/// The issuer's Name (DER) in any CRL (RFC 5280, 5.1), unverified.
fn issuer_name(der: &[u8]) -> der::Result<&[u8]> {
    let mut list = contents(der, Tag::Sequence)?;
    let mut tbs = contents(tlv::raw(&mut list, Tag::Sequence)?, Tag::Sequence)?;
    if Tag::peek(&tbs)? == Tag::Integer {
        tlv::raw(&mut tbs, Tag::Integer)?;
    }
    tlv::raw(&mut tbs, Tag::Sequence)?;
    tlv::raw(&mut tbs, Tag::Sequence)
}

/// The hash of a Name (DER) that OpenSSL's hashed directories go by: the first four octets, little-endian, of the SHA-1
/// over its canonical form.
pub fn name_hash(name: &[u8]) -> String {
    let canonical = canonical(name).unwrap_or_else(|_| name.to_vec());
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &canonical);
    let first = hash
        .as_ref()
        .first_chunk::<4>()
        .copied()
        .unwrap_or_default();
    format!("{:08x}", u32::from_le_bytes(first))
}

/// A Name in canonical form: no outer header; texts in UTF-8, lower case, spaces inside single and outside gone.
fn canonical(name: &[u8]) -> der::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut relative_names = contents(name, Tag::Sequence)?;
    while !relative_names.is_finished() {
        let mut attributes = contents(tlv::raw(&mut relative_names, Tag::Set)?, Tag::Set)?;
        let mut set: Vec<Vec<u8>> = Vec::new();
        while !attributes.is_finished() {
            let mut attribute = contents(tlv::raw(&mut attributes, Tag::Sequence)?, Tag::Sequence)?;
            let mut pair = tlv::raw(&mut attribute, Tag::ObjectIdentifier)?.to_vec();
            let tag = Tag::peek(&attribute)?;
            let value = tlv::raw(&mut attribute, tag)?;
            pair.extend(canonical_value(tag, value)?);
            set.push(tlv::wrap(tlv::SEQUENCE, &[&pair]));
        }
        // DER's order of a SET OF, which lower case may have changed.
        set.sort();
        out.extend(tlv::wrap(tlv::SET, &[&set.concat()]));
    }
    Ok(out)
}

/// An attribute's value in canonical form; what is no text stays as it is.
fn canonical_value(tag: Tag, value: &[u8]) -> der::Result<Vec<u8>> {
    let one_octet = matches!(
        tag,
        Tag::PrintableString | Tag::Ia5String | Tag::VisibleString
    );
    if !one_octet && tag != Tag::Utf8String {
        return Ok(value.to_vec());
    }
    let mut reader = contents(value, tag)?;
    let length = reader.remaining_len();
    let text = std::str::from_utf8(reader.read_slice(length)?).map_err(|_| tag.value_error())?;
    let words: Vec<&str> = text
        .split(|letter: char| letter.is_ascii_whitespace() || letter == '\u{b}')
        .filter(|word| !word.is_empty())
        .collect();
    let text = words.join(" ").to_ascii_lowercase();
    Ok(tlv::wrap(tlv::UTF8_STRING, &[text.as_bytes()]))
}

/// The contents of a value.
fn contents(der: &[u8], tag: Tag) -> der::Result<SliceReader<'_>> {
    let mut reader = SliceReader::new(der)?;
    let header = der::Header::decode(&mut reader)?;
    header.tag().assert_eq(tag)?;
    SliceReader::new(reader.read_slice(header.length())?)
}
