//! The ceremony file: what is to be made, as people reviewed it.
//!
//! Owns [`Plan`]. Promises that a plan that loaded contradicts neither itself nor the configuration, and that
//! a refusal lists everything that is wrong, so that a ceremony is not called off twice. Never touches a
//! token. Failure story: [`PlanRefused`]; nothing was made.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certstatus::document;
use certstatus::log::IssuerName;
use certstatus::signature::PublicKey;
use serde::Deserialize;
use x509_cert::name::Name;

use super::subject;
use crate::config::{Config, ConfigError, KeyUri};
use crate::hsm::{KeyAlgorithm, KeyPolicy};
use crate::limits;
use crate::profile::{CaSpec, Validity};
use crate::signing_log::IssuerRole;

/// What stands for the end of time in a validity (IEEE 802.1AR, 8.7).
const FOREVER: &str = "99991231235959Z";

/// What stands for a parent whose key is elsewhere.
const OFFLINE: &str = "offline";

/// CA certificates in one ceremony.
const CAS_MAX: usize = 32;

/// CRL partitions of an issuer: at 100,000 entries each, ten million revocations.
const PARTITIONS_MAX: u32 = 128;

/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a CA certificate may be valid, unless for ever.
const CA_VALIDITY: std::ops::RangeInclusive<Duration> = DAY..=DAY.saturating_mul(100 * 366);

/// A reviewed ceremony: made by [`Plan::load`] only.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the ceremony is called in the transcript.
    pub(super) title: String,
    /// Where it takes place.
    pub(super) place: Option<String>,
    /// Who takes part; the first one acts in the log.
    pub(super) operators: Vec<String>,
    /// The product owner's key, pinned in the log's first entry.
    pub(super) owner_key: Option<PublicKey>,
    /// What is made, each after its parent.
    pub(super) cas: Vec<Ca>,
    /// The file's text, for the transcript.
    pub(super) text: String,
}

/// A CA certificate to be made.
#[derive(Clone, Debug)]
pub(super) struct Ca {
    /// The name in log, URLs and configuration.
    pub name: IssuerName,
    /// Where its key is to be.
    pub key: KeyUri,
    /// What it is for.
    pub role: IssuerRole,
    /// The kind of its key.
    pub algorithm: KeyAlgorithm,
    /// How far its key may leave the token.
    pub policy: KeyPolicy,
    /// What its certificate says.
    pub spec: CaSpec,
    /// Who signs its certificate.
    pub parent: Parent,
    /// How long its CRLs count.
    pub crl_validity: Duration,
    /// CRL partitions; 0 is none.
    pub partitions: u32,
}

/// Who signs a CA certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// Itself.
    Itself,
    /// A root of the same ceremony.
    Root(IssuerName),
    /// A root whose key is elsewhere.
    Offline(OfflineRoot),
}

/// A root whose key is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OfflineRoot {
    /// Its name in the log.
    pub name: IssuerName,
    /// The subject that its certificate must have.
    pub subject: Name,
    /// SHA-256 of its certificate, where the file pins it.
    pub sha256: Option<[u8; 32]>,
}

/// Why a ceremony file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanRefused {
    /// Not readable, not TOML, or with unknown keys.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// What it says cannot be made.
    #[error("{}: {} wrong:{}", path.display(), things(problems), list(problems))]
    Problems {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong with a ceremony file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// How many things are wrong, in words.
fn things(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "one thing is".to_owned(),
        count => format!("{count} things are"),
    }
}

/// The problems, a line each.
fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n- {}: {}", problem.key, problem.problem))
        .collect()
}

/// The file as serde sees it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "version")]
    _version: i64,
    ceremony: CeremonyForm,
    ca: Vec<CaForm>,
}

/// `[ceremony]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CeremonyForm {
    title: String,
    place: Option<String>,
    operators: Vec<String>,
    owner_key: Option<String>,
}

/// `[[ca]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaForm {
    name: String,
    role: IssuerRole,
    algorithm: KeyAlgorithm,
    policy: KeyPolicy,
    subject: String,
    validity: String,
    path_len: Option<u8>,
    parent: Option<String>,
    offline_parent: Option<String>,
    offline_parent_subject: Option<String>,
    offline_parent_sha256: Option<String>,
    crl_validity: Option<String>,
    crl_partitions: Option<u32>,
}

impl Plan {
    /// Reads a ceremony file and holds it against the configuration.
    ///
    /// # Errors
    /// [`PlanRefused`] lists all that is wrong; nothing was made.
    pub fn load(path: &Path, config: &Config) -> Result<Self, PlanRefused> {
        Self::from_text(
            path,
            document::text(path, document::FILE_BYTES_MAX)?,
            config,
        )
    }

    /// Like [`Self::load`], from the text that stands in the file `path`, which is not opened.
    ///
    /// # Errors
    /// [`PlanRefused`] lists all that is wrong; nothing was made.
    pub fn from_text(path: &Path, text: String, config: &Config) -> Result<Self, PlanRefused> {
        let file: File = document::parse(path, &text)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut review = Review {
            config,
            problems: Vec::new(),
        };
        let plan = review.plan(file, base, text);
        match plan {
            Some(plan) if review.problems.is_empty() => Ok(plan),
            _ => Err(PlanRefused::Problems {
                path: path.to_owned(),
                problems: review.problems,
            }),
        }
    }
}

/// A review in progress: goes on after a problem, to find all.
struct Review<'a> {
    config: &'a Config,
    problems: Vec<Problem>,
}

impl Review<'_> {
    /// Notes a problem.
    fn note(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.problems.push(Problem {
            key: key.into(),
            problem: problem.into(),
        });
    }

    /// Notes the problem of a value that is none.
    fn or_note<T>(&mut self, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|problem| self.note(key, problem)).ok()
    }

    /// The plan, where every part of it could be read.
    fn plan(&mut self, file: File, base: &Path, text: String) -> Option<Plan> {
        let head = file.ceremony;
        self.words("ceremony.title", &head.title);
        if let Some(place) = &head.place {
            self.words("ceremony.place", place);
        }
        if head.operators.is_empty() {
            self.note("ceremony.operators", "must name who takes part");
        }
        for (index, operator) in head.operators.iter().enumerate() {
            self.words(&format!("ceremony.operators[{index}]"), operator);
        }
        let owner_key = head.owner_key.and_then(|file| {
            let read = read_public_key(&base.join(file));
            self.or_note("ceremony.owner_key", read)
        });
        if file.ca.is_empty() || file.ca.len() > CAS_MAX {
            self.note("ca", format!("must have 1 to {CAS_MAX} entries"));
        }
        let count = file.ca.len();
        let mut cas: Vec<Ca> = file
            .ca
            .into_iter()
            .enumerate()
            .filter_map(|(index, form)| self.ca(index, form))
            .collect();
        if cas.len() == count {
            self.together(&cas);
            self.against_configuration(&cas);
        }
        // Parents are roots, so this puts each after its parent and keeps the file's order otherwise.
        cas.sort_by_key(|ca| ca.role != IssuerRole::Root);
        Some(Plan {
            title: head.title,
            place: head.place,
            operators: head.operators,
            owner_key,
            cas,
            text,
        })
    }

    /// A text for people: something printable on one line.
    fn words(&mut self, key: &str, text: &str) {
        if text.trim().is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
            self.note(key, "must be 1 to 200 bytes on one line");
        }
    }

    /// One `[[ca]]`, by itself.
    fn ca(&mut self, index: usize, form: CaForm) -> Option<Ca> {
        let key = |field: &str| format!("ca[{index}].{field}");
        let name: Result<IssuerName, _> = form.name.parse();
        let name = self.or_note(&key("name"), name.map_err(|error| error.to_string()));
        let place = name.as_ref().and_then(|name| self.place(index, name));
        let subject = self.or_note(&key("subject"), subject::parse(&form.subject));
        let validity = self.or_note(&key("validity"), parse_validity(&form.validity));
        let parent = self.parent(index, &form);
        let root = form.role == IssuerRole::Root;
        let crl_validity = match &form.crl_validity {
            Some(text) => self.or_note(&key("crl_validity"), parse_crl_validity(text)),
            None if root => Some(limits::ROOT_CRL_VALIDITY),
            None => Some(limits::CRL_VALIDITY),
        };
        let path_len = match (root, form.path_len) {
            (true, given) => given,
            (false, None | Some(0)) => Some(0),
            (false, Some(_)) => {
                let problem = "must be 0 or left out: only roots sign CA certificates";
                self.note(key("path_len"), problem);
                None
            }
        };
        let partitions = form.crl_partitions.unwrap_or(0);
        if partitions > PARTITIONS_MAX || (partitions > 0 && form.role != IssuerRole::Device) {
            let problem = format!("must be 0 to {PARTITIONS_MAX}, and 0 but for device issuers");
            self.note(key("crl_partitions"), problem);
        }
        Some(Ca {
            name: name?,
            key: place?,
            role: form.role,
            algorithm: form.algorithm,
            policy: form.policy,
            spec: CaSpec {
                subject: subject?,
                validity: validity?,
                path_len,
            },
            parent: parent?,
            crl_validity: crl_validity?,
            partitions,
        })
    }

    /// Where the configuration wants the key of this issuer.
    fn place(&mut self, index: usize, name: &IssuerName) -> Option<KeyUri> {
        let key = format!("ca[{index}].name");
        match self.config.issuer(name) {
            Some(issuer) if issuer.key.is_some() => issuer.key.clone(),
            Some(_) => {
                self.note(
                    key,
                    format!("the configuration's [[issuer]] {name} has no key"),
                );
                None
            }
            None => {
                self.note(key, format!("the configuration has no [[issuer]] {name}"));
                None
            }
        }
    }

    /// Who signs, as the entry says it.
    fn parent(&mut self, index: usize, form: &CaForm) -> Option<Parent> {
        let key = |field: &str| format!("ca[{index}].{field}");
        let offline = form.parent.as_deref() == Some(OFFLINE);
        let strays = [
            ("offline_parent", form.offline_parent.is_some()),
            (
                "offline_parent_subject",
                form.offline_parent_subject.is_some(),
            ),
            (
                "offline_parent_sha256",
                form.offline_parent_sha256.is_some(),
            ),
        ];
        for (field, _) in strays.iter().filter(|(_, given)| *given && !offline) {
            self.note(key(field), "has a meaning only with parent = \"offline\"");
        }
        match (&form.parent, form.role) {
            (None, IssuerRole::Root) => Some(Parent::Itself),
            (Some(_), IssuerRole::Root) => {
                self.note(key("parent"), "must be left out: a root signs itself");
                None
            }
            (None, _) => {
                let problem = "is missing: name the root that signs, or \"offline\"";
                self.note(key("parent"), problem);
                None
            }
            (Some(_), _) if offline => self.offline(index, form).map(Parent::Offline),
            (Some(name), _) => {
                let name = name
                    .parse()
                    .map_err(|error: certstatus::log::entry::NotASlug| error.to_string());
                self.or_note(&key("parent"), name).map(Parent::Root)
            }
        }
    }

    /// The root elsewhere that an entry names.
    fn offline(&mut self, index: usize, form: &CaForm) -> Option<OfflineRoot> {
        let key = |field: &str| format!("ca[{index}].{field}");
        let name = form
            .offline_parent
            .as_deref()
            .ok_or("is missing: the name of the offline root in the configuration".to_owned())
            .and_then(|name| {
                name.parse::<IssuerName>()
                    .map_err(|error| error.to_string())
            });
        let name = self.or_note(&key("offline_parent"), name);
        let subject = form
            .offline_parent_subject
            .as_deref()
            .ok_or("is missing: the subject of the offline root's certificate".to_owned())
            .and_then(subject::parse);
        let subject = self.or_note(&key("offline_parent_subject"), subject);
        let sha256 = form.offline_parent_sha256.as_deref().map(|hex| {
            certstatus::hex::decode_array::<32>(hex)
                .map_err(|_| "must be 64 lower-case hexadecimal digits".to_owned())
        });
        let sha256 = match sha256 {
            Some(pin) => Some(self.or_note(&key("offline_parent_sha256"), pin)?),
            None => None,
        };
        Some(OfflineRoot {
            name: name?,
            subject: subject?,
            sha256,
        })
    }

    /// What the entries say together.
    fn together(&mut self, cas: &[Ca]) {
        let (mut names, mut subjects) = (HashSet::new(), HashSet::new());
        for (index, ca) in cas.iter().enumerate() {
            if !names.insert(&ca.name) {
                self.note(
                    format!("ca[{index}].name"),
                    format!("{} stands twice", ca.name),
                );
            }
            if !subjects.insert(ca.spec.subject.to_string()) {
                let problem = "is another certificate's subject too: chains are built by names";
                self.note(format!("ca[{index}].subject"), problem);
            }
            match &ca.parent {
                Parent::Itself => {}
                Parent::Root(root) => self.below(index, ca, root, cas),
                Parent::Offline(root) => {
                    if ca.role == IssuerRole::Access {
                        let problem = "must be a root of this ceremony: the server's certificate is issued in it";
                        self.note(format!("ca[{index}].parent"), problem);
                    }
                    if root.subject == ca.spec.subject {
                        let problem = "is the issuer's own subject";
                        self.note(format!("ca[{index}].offline_parent_subject"), problem);
                    }
                }
            }
        }
        for (index, ca) in cas.iter().enumerate() {
            let children = cas.iter().filter(|child| child.parent.is(&ca.name));
            let roles: HashSet<bool> = children
                .map(|child| child.role == IssuerRole::Access)
                .collect();
            if roles.len() > 1 {
                let problem = "signs a device issuer and the access issuer: give the access issuer \
                               a root of its own, or whoever trusts devices trusts lines too";
                self.note(format!("ca[{index}].name"), problem);
            }
            if ca.role == IssuerRole::Root && roles.is_empty() {
                self.note(
                    format!("ca[{index}].name"),
                    "is a root that signs no issuer",
                );
            }
        }
    }

    /// An issuer below a root of the same ceremony.
    fn below(&mut self, index: usize, ca: &Ca, root: &IssuerName, cas: &[Ca]) {
        let key = |field: &str| format!("ca[{index}].{field}");
        let found = cas.iter().find(|other| other.name == *root);
        let Some(root) = found.filter(|found| found.role == IssuerRole::Root) else {
            let problem = format!("{root} is no root in this file");
            self.note(key("parent"), problem);
            return;
        };
        if root.spec.path_len == Some(0) {
            let problem = format!(
                "{} has path_len = 0, so it may not sign a CA certificate",
                root.name
            );
            self.note(key("parent"), problem);
        }
        let outlives = match (root.spec.validity, ca.spec.validity) {
            (Validity::Forever, _) => false,
            (Validity::For(_), Validity::Forever) => true,
            (Validity::For(root), Validity::For(own)) => own >= root,
        };
        if outlives {
            let problem = format!("must be shorter than that of {}, its parent", root.name);
            self.note(key("validity"), problem);
        }
    }

    /// What file and configuration say together.
    fn against_configuration(&mut self, cas: &[Ca]) {
        let config = self.config;
        let offline = |name: &IssuerName| {
            cas.iter()
                .any(|ca| matches!(&ca.parent, Parent::Offline(root) if root.name == *name))
        };
        for issuer in &config.issuers {
            let here = cas.iter().any(|ca| ca.name == issuer.name);
            if issuer.key.is_some() && !here {
                let problem = format!(
                    "has no entry for the configuration's [[issuer]] {}",
                    issuer.name
                );
                self.note("ca", problem);
            }
            if issuer.key.is_none() && !offline(&issuer.name) {
                let problem = format!(
                    "no entry has offline_parent = \"{0}\", but the configuration's [[issuer]] {0} has no key",
                    issuer.name
                );
                self.note("ca", problem);
            }
        }
        for (index, ca) in cas.iter().enumerate() {
            let configured = config.issuer(&ca.name);
            let url = configured.is_some_and(|issuer| issuer.crl_partition_url.is_some());
            if (ca.partitions > 0) != url {
                let problem = format!(
                    "{} has {} partitions, and [[issuer]] {0} of the configuration {}: have both or \
                     neither, for ever",
                    ca.name,
                    ca.partitions,
                    if url {
                        "a crl_partition_url"
                    } else {
                        "no crl_partition_url"
                    },
                );
                self.note(format!("ca[{index}].crl_partitions"), problem);
            }
        }
        for (index, ca) in cas.iter().enumerate() {
            if let Parent::Offline(root) = &ca.parent
                && config
                    .issuer(&root.name)
                    .is_none_or(|issuer| issuer.key.is_some())
            {
                let problem = format!(
                    "the configuration needs an [[issuer]] {} without a key",
                    root.name
                );
                self.note(format!("ca[{index}].offline_parent"), problem);
            }
        }
        let access: Vec<&Ca> = cas
            .iter()
            .filter(|ca| ca.role == IssuerRole::Access)
            .collect();
        match access.as_slice() {
            [one] if one.name == config.server.issuer => {}
            _ => self.note(
                "ca",
                format!(
                    "exactly one entry must have role = \"access\", the configuration's server.issuer {}",
                    config.server.issuer
                ),
            ),
        }
    }
}

impl Parent {
    /// Whether it is this root of the ceremony.
    fn is(&self, name: &IssuerName) -> bool {
        matches!(self, Self::Root(root) if root == name)
    }
}

/// A CA certificate's validity.
fn parse_validity(text: &str) -> Result<Validity, String> {
    if text == FOREVER {
        return Ok(Validity::Forever);
    }
    let form = format!("must be a duration such as 20y or 3650days, or \"{FOREVER}\"");
    let length = humantime::parse_duration(text).map_err(|error| format!("{form}: {error}"))?;
    if !CA_VALIDITY.contains(&length) {
        return Err(format!("{form}, from a day to 100 years"));
    }
    Ok(Validity::For(length))
}

/// How long a CRL counts.
fn parse_crl_validity(text: &str) -> Result<Duration, String> {
    let form = "must be a duration such as 7days";
    let length = humantime::parse_duration(text).map_err(|error| format!("{form}: {error}"))?;
    if !limits::CRL_VALIDITY_RANGE.contains(&length) {
        return Err(format!("{form}, from an hour to 10 years"));
    }
    Ok(length)
}

/// Reads a PEM `PUBLIC KEY`.
fn read_public_key(path: &Path) -> Result<PublicKey, String> {
    let refuse = |why: String| format!("{}: {why}", path.display());
    let pem = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let (label, document) = der::Document::from_pem(&pem)
        .map_err(|_| refuse("not a PEM file with one PUBLIC KEY".to_owned()))?;
    if label != "PUBLIC KEY" {
        return Err(refuse(format!(
            "holds a {label}, not a PUBLIC KEY (SubjectPublicKeyInfo)"
        )));
    }
    PublicKey::parse(document.as_bytes()).map_err(|fault| refuse(fault.to_string()))
}

#[cfg(test)]
mod tests;
