//! The making of a site, top to bottom.
//!
//! Owns the order of steps and the list of what was made. Promises that each thing stands in that list from
//! the moment at which it may exist. Never deletes anything. Failure story: the first failing step ends it;
//! the list is what people have to remove.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding as _};
use certstatus::log::EventName;
use serde_json::json;

use super::authority::Made;
use super::plan::Plan;
use super::{
    CeremonyError, LogOfRecord, StepFailed, Transcript, make_private_directory, paper, product,
    sha256, tokens_of_record, write, write_secret,
};
use crate::config::{Config, KeyUri, LogKeyPlace};
use crate::hsm::{GeneratedKey, Hsm, KeyAlgorithm, KeyPolicy, LogKey, Reached};
use crate::signing_log::{Publication, SigningLog};
use crate::store::Store;
use crate::time::Clock;

/// A site in the making.
pub(super) struct Site<'a, P> {
    pub(super) config: &'a Config,
    pub(super) plan: Plan,
    pub(super) clock: Clock,
    pub(super) hsm: Hsm,
    progress: &'a mut P,
    doing: String,
    made: Vec<String>,
}

/// A log that was begun, with what is told of its key.
struct Begun {
    log: SigningLog,
    key: DescribedLogKey,
}

/// What is told of the log key.
struct DescribedLogKey {
    /// Where it is and how it came there.
    words: String,
    /// What the token reports of it, where it was made on one.
    generated: Option<(KeyUri, GeneratedKey)>,
}

/// The kind and the policy of a log key on a token.
const ON_TOKEN: (KeyAlgorithm, KeyPolicy) = (KeyAlgorithm::Ed25519, KeyPolicy::NeverExtractable);

impl<'a, P: FnMut(&str)> Site<'a, P> {
    /// A site of which nothing was made yet.
    pub fn new(
        config: &'a Config,
        plan: Plan,
        clock: Clock,
        hsm: Hsm,
        progress: &'a mut P,
    ) -> Self {
        Self {
            config,
            plan,
            clock,
            hsm,
            progress,
            doing: String::new(),
            made: Vec::new(),
        }
    }

    /// Says and remembers what is being done.
    pub fn doing(&mut self, what: String) {
        (self.progress)(&what);
        self.doing = what;
    }

    /// Notes what exists from now on.
    pub fn made(&mut self, what: String) {
        self.made.push(what);
    }

    /// What to tell people about a failed step.
    pub fn failed(&self, source: StepFailed) -> CeremonyError {
        CeremonyError::Midway {
            doing: self.doing.clone(),
            made: self.made.clone(),
            source: Box::new(source),
        }
    }

    /// Makes everything.
    pub async fn make(&mut self) -> Result<Transcript, StepFailed> {
        let began = self.clock.now();
        let Begun { log, key } = self.begin_log().await?;
        let finished = self.fill(&log, began, key).await;
        // Whatever happened, what is in the log is published, and the database is left in order.
        log.stop().await;
        finished
    }

    /// The database, the log key, the log's first entry.
    async fn begin_log(&mut self) -> Result<Begun, StepFailed> {
        self.doing("making the database".to_owned());
        let state = &self.config.state_dir;
        make_private_directory(state)?;
        make_private_directory(&self.config.details)?;
        let store = Store::create(state).await?;
        self.made(format!("the database in {}", state.display()));
        let (log_key, described) = self.log_key().await?;
        self.doing("beginning the signing log".to_owned());
        let publication = Publication {
            published: self.config.published.clone(),
            details: self.config.details.clone(),
        };
        let genesis = self.genesis(&described.words);
        let (published, details) = (&self.config.published, &self.config.details);
        let places = format!(
            "the published log in {} and its details in {}",
            published.display(),
            details.display()
        );
        self.made(places);
        let log = SigningLog::create(
            store,
            self.clock.clone(),
            &self.config.log.origin,
            log_key,
            publication,
            genesis,
        )
        .await?;
        Ok(Begun {
            log,
            key: described,
        })
    }

    /// The log key, and where it is and how it came there.
    async fn log_key(&mut self) -> Result<(LogKey, DescribedLogKey), StepFailed> {
        let in_file = |words| DescribedLogKey {
            words,
            generated: None,
        };
        match &self.config.log.key {
            LogKeyPlace::File(path) => {
                let shown = path.display();
                if path.exists() {
                    self.doing(format!("reading the log key that was supplied in {shown}"));
                    let key = LogKey::from_file(path)?;
                    return Ok((
                        key,
                        in_file(format!("supplied by the operators, in the file {shown}")),
                    ));
                }
                self.doing(format!("making the log key in {shown}"));
                write_secret(path, LogKey::generate()?.as_bytes())?;
                self.made(format!("the log key in {shown}"));
                Ok((
                    LogKey::from_file(path)?,
                    in_file(format!("made in the file {shown}")),
                ))
            }
            LogKeyPlace::Token(uri) => {
                self.doing(format!("making the log key {uri}"));
                let (algorithm, policy) = ON_TOKEN;
                let generated = self.hsm.generate(uri, algorithm, policy).await;
                let generated = generated.inspect_err(|error| {
                    if error.reached() == Reached::Maybe {
                        self.made.push(format!("perhaps the log key {uri}"));
                    }
                })?;
                self.made(format!("the log key {uri}"));
                let pin = sha256(&generated.spki);
                let key = LogKey::open(&self.hsm, uri, &pin.0).await?;
                let words = format!("made on the token: {uri}, public key SHA-256 {pin}");
                let generated = Some((uri.clone(), generated));
                Ok((key, DescribedLogKey { words, generated }))
            }
        }
    }

    /// What the log's first entry says beside origin and verifier key.
    fn genesis(&self, log_key: &str) -> serde_json::Value {
        let mut genesis = json!({
            "log_key": log_key,
            "operators": self.plan.operators,
            "plan_sha256": sha256(self.plan.text.as_bytes()),
            "product": product(),
            "title": self.plan.title,
            "tokens": tokens_of_record(&self.config.tokens),
        });
        if let Some(fields) = genesis.as_object_mut() {
            if let Some(place) = &self.plan.place {
                fields.insert("place".to_owned(), json!(place));
            }
            if let Some(key) = &self.plan.owner_key {
                let spki = Base64::encode_string(key.spki());
                fields.insert("owner_key".to_owned(), json!(spki));
            }
        }
        genesis
    }

    /// What the log says of its own key on a token: as of a CA key, but without an issuer.
    fn log_key_event(&self, uri: &KeyUri, generated: &GeneratedKey) -> serde_json::Value {
        let (algorithm, policy) = ON_TOKEN;
        json!({
            "algorithm": algorithm,
            "attributes": generated.attributes,
            "key_label": uri.key_label,
            "operator": self.operator(),
            "policy": policy,
            "spki_der": Base64::encode_string(&generated.spki),
            "spki_sha256": sha256(&generated.spki),
            "token_label": uri.token_label,
            "token_serial": uri.token_serial,
        })
    }

    /// Everything that goes into the log.
    async fn fill(
        &mut self,
        log: &SigningLog,
        began: certstatus::UnixMillis,
        log_key: DescribedLogKey,
    ) -> Result<Transcript, StepFailed> {
        // First, so that the log of a ceremony that fails can be verified too.
        self.doing("writing the log's verifier key".to_owned());
        let verifier_key = log.verifier_key();
        let path = self.config.verifier_key_file();
        write(&path, format!("{verifier_key}\n").as_bytes())?;
        self.made(path.display().to_string());
        let mut attributes = BTreeMap::new();
        if let Some((uri, generated)) = log_key.generated {
            record_event(log, "key-generated", self.log_key_event(&uri, &generated)).await?;
            attributes = generated.attributes;
        }
        let mut made = Made::default();
        for ca in self.plan.cas.clone() {
            self.authority(log, &ca, &mut made).await?;
        }
        self.server(log, &mut made).await?;
        let transcript = Transcript {
            title: self.plan.title.clone(),
            place: self.plan.place.clone(),
            operators: self.plan.operators.clone(),
            product: product(),
            began,
            ended: self.clock.now(),
            plan_sha256: sha256(self.plan.text.as_bytes()),
            owner_key_sha256: self.plan.owner_key.as_ref().map(|key| sha256(key.spki())),
            log: LogOfRecord {
                origin: log.origin().to_owned(),
                verifier_key,
                key: log_key.words,
                attributes,
            },
            tokens: tokens_of_record(&self.config.tokens),
            keys: made.keys,
            certificates: made.certificates,
            requests: made.requests,
            plan: self.plan.text.clone(),
        };
        self.finish(log, &transcript).await?;
        Ok(transcript)
    }

    /// Writes the transcript, and its hash into the log.
    async fn finish(
        &mut self,
        log: &SigningLog,
        transcript: &Transcript,
    ) -> Result<(), StepFailed> {
        self.doing("writing the transcript".to_owned());
        let text = transcript.to_string();
        let path = paper(self.config, "transcript.txt");
        write(&path, text.as_bytes())?;
        self.made(path.display().to_string());
        let finished = json!({
            "operators": self.plan.operators,
            "title": self.plan.title,
            "transcript_sha256": sha256(text.as_bytes()),
        });
        record_event(log, "ceremony-finished", finished).await?;
        self.doing("publishing the log".to_owned());
        log.publish().await?;
        Ok(())
    }

    /// Who acts in the log: the first of the operators.
    pub fn operator(&self) -> String {
        self.plan.operators.first().cloned().unwrap_or_default()
    }
}

/// Logs an event of a ceremony.
pub(super) async fn record_event(
    log: &SigningLog,
    event: &str,
    data: serde_json::Value,
) -> Result<(), StepFailed> {
    let event: EventName = event
        .parse()
        .map_err(|_| StepFailed::EventName(event.to_owned()))?;
    log.record_event(event, data).await?;
    Ok(())
}
