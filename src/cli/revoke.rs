//! Revoking and releasing from the command line: look first, then do exactly that.
//!
//! Owns the way from criteria to serials, the token of a selection, and the doing in parts. Promises that what is
//! done is what was shown: a token names the log's entries that the selection is of and the serials in it, and a
//! part of the doing names its serials. Never holds more in a request than one transaction takes. Failure story:
//! a run that ends early says what it did; the same command goes on, and nothing is done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use certstatus::log::{DetailHash, IssuerName};
use certstatus::{RevocationReason, SerialNumber};
use serde_json::{Value, json};

use super::acts::tell;
use super::client::{Client, ClientError};
use super::{CliError, Output, print, print_json};
use crate::limits;
use crate::signing_log::Selection;
use crate::time::Clock;
use arguments::{How, ReleaseArguments, RevokeArguments, Which};

pub(super) mod arguments;
mod tell;

/// Certificates that a look at a selection lists one by one.
const SHOWN_MAX: usize = 20;

/// Device ids without a certificate that an answer lists.
const UNMATCHED_MAX: usize = 100;

/// Why many were not revoked, or not all of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfinished {
    /// The token is of another selection.
    #[error(
        "the selection is not the one that was shown with this token: it has {found} certificates now. Look again \
         with the same criteria and the same reason, and take the token that is shown then"
    )]
    OtherSelection {
        /// How many the criteria name.
        found: usize,
    },
    /// Not a token.
    #[error(
        "{0:?} is no token of a selection: it is shown by a look at one, such as 4711-0123456789abcdef…"
    )]
    NotAToken(String),
    /// A serial that was not issued.
    #[error("there is no certificate with the serial {0} that was issued, and nothing was done")]
    NotIssued(SerialNumber),
    /// The answer has another form.
    #[error("the appliance's answer is not understood: is it of another version?")]
    Answer,
    /// The operator said no.
    #[error("nothing was done")]
    Declined,
    /// Nobody was there to say yes.
    #[error(
        "nothing was done, since there is no terminal to ask at: add {0} to do it, --dry-run only to look"
    )]
    Unasked(&'static str),
    /// The selection is empty.
    #[error("nothing was done: no certificate fulfils all criteria")]
    Empty,
    /// Device ids without a certificate, beside others that were dealt with.
    #[error(
        "{0} device ids match no certificate and nothing was done for them: they are listed above (unmatched)"
    )]
    Unmatched(usize),
    /// There is no such issuer.
    #[error("there is no issuer {0}: `hallmark status` lists them")]
    NoIssuer(IssuerName),
    /// It ended before its end.
    #[error(
        "ended after {done} of {of} certificates ({changed} changed): run the same command again to go on, nothing \
         is done twice"
    )]
    Early {
        /// Certificates that were gone through.
        done: usize,
        /// Of so many.
        of: usize,
        /// Of these, those that stand otherwise now.
        changed: u64,
        /// Why, unless it was told to end.
        #[source]
        source: Option<ClientError>,
    },
    /// Some of them were refused.
    #[error("{0} certificates were refused: they are listed above")]
    Refused(usize),
}

impl Unfinished {
    /// The exit code: 3 where nothing was done because nobody said yes.
    pub(super) fn code(&self) -> ExitCode {
        match self {
            Self::Declined | Self::Unasked(_) => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What a selection holds.
struct Found {
    /// It is of the log's first so many entries.
    entries: u64,
    serials: Vec<SerialNumber>,
    /// The first few, as the daemon tells of them.
    shown: Vec<Value>,
    /// How many stand how.
    statuses: BTreeMap<String, u64>,
    /// The device ids that were named and have no certificate among these, in lower case.
    unmatched: BTreeSet<String>,
}

/// What is to be done.
struct Job<'a> {
    daemon: &'a Client,
    reason: RevocationReason,
    how: &'a How,
    output: Output,
}

/// `hallmark cert revoke …`.
pub(super) async fn revoke(
    arguments: RevokeArguments,
    daemon: &Client,
    output: Output,
) -> Result<(), CliError> {
    let job = Job {
        daemon,
        reason: arguments.reason,
        how: &arguments.how,
        output,
    };
    job.execute(&arguments.which, arguments.issuer_certificate)
        .await
}

/// `hallmark cert release …`.
pub(super) async fn release(
    arguments: ReleaseArguments,
    daemon: &Client,
    output: Output,
) -> Result<(), CliError> {
    let job = Job {
        daemon,
        reason: RevocationReason::RemoveFromCrl,
        how: &arguments.how,
        output,
    };
    job.execute(&arguments.which, arguments.issuer_certificate)
        .await
}

impl Job<'_> {
    /// One issuer's, one certificate, or a selection.
    async fn execute(&self, which: &Which, issuer: Option<IssuerName>) -> Result<(), CliError> {
        if let Some(issuer) = issuer {
            return self.authority(&issuer).await;
        }
        let looked_at = self.how.dry_run || self.how.token.is_some();
        match which.one() {
            Some(serial) if !looked_at => self.one(serial).await,
            _ => self.selected(which).await,
        }
    }

    /// Whether it is a release.
    fn releases(&self) -> bool {
        self.reason == RevocationReason::RemoveFromCrl
    }

    /// The certificate of an issuer, after a question: it ends all issuing there.
    async fn authority(&self, issuer: &IssuerName) -> Result<(), CliError> {
        let question = if self.releases() {
            format!("Release the CA certificate of {issuer}? It then issues again.")
        } else {
            format!(
                "Revoke the CA certificate of {issuer} ({})? It then issues nothing.",
                self.reason
            )
        };
        let body = json!({ "reason": self.reason, "comment": self.how.comment });
        self.exists(issuer).await?;
        if self.how.dry_run || !self.confirmed(&question)? {
            let shown = json!({ "issuer": issuer, "reason": self.reason, "done": false });
            return self.not_done(&shown, &question);
        }
        let path = format!("/v1/issuers/{issuer}/revoke");
        let done = self.daemon.post(&path, Some(body)).await?;
        tell(self.output, &done, |done| {
            tell::one(&format!("the CA certificate of {issuer}"), done)
        })
    }

    /// Judges an issuer's name before a question about it.
    async fn exists(&self, issuer: &IssuerName) -> Result<(), CliError> {
        let status = self.daemon.get("/v1/status").await?;
        let known = status.get("issuers").and_then(Value::as_array);
        let mut known = known.ok_or(Unfinished::Answer)?.iter();
        let named =
            |one: &Value| one.get("issuer").and_then(Value::as_str) == Some(issuer.as_str());
        if known.any(named) {
            return Ok(());
        }
        Err(Unfinished::NoIssuer(issuer.clone()).into())
    }

    /// Tells what was not done about an authority: as it was asked, or because nobody said yes.
    fn not_done(&self, shown: &Value, question: &str) -> Result<(), CliError> {
        tell(self.output, shown, |_| {
            format!("{question}\nNothing was done: add --yes to do it.\n")
        })?;
        if self.how.dry_run {
            return Ok(());
        }
        Err(Unfinished::Unasked("--yes").into())
    }

    /// One certificate by its serial: at once, unless it is an issuer's.
    async fn one(&self, serial: SerialNumber) -> Result<(), CliError> {
        let known = self.daemon.get(&format!("/v1/certificates/{serial}")).await;
        let why = known
            .ok()
            .and_then(|known| Some(known.get("why")?.as_str()? == "ca"));
        let authority = why == Some(true);
        if authority {
            let question =
                format!("{serial} is a CA certificate: its issuer then issues nothing. Go on?");
            if !self.confirmed(&question)? {
                let shown = json!({ "serial": serial, "done": false });
                return self.not_done(&shown, &question);
            }
        }
        let (act, body) = if self.releases() {
            ("release", json!({ "comment": self.how.comment }))
        } else {
            (
                "revoke",
                json!({ "reason": self.reason, "comment": self.how.comment }),
            )
        };
        let path = format!("/v1/certificates/{serial}/{act}");
        let done = self.daemon.post(&path, Some(body)).await?;
        tell(self.output, &done, |done| {
            tell::one(&format!("certificate {serial}"), done)
        })
    }

    /// A selection: looked at, then done.
    async fn selected(&self, which: &Which) -> Result<(), CliError> {
        let selections = which.selections(Clock::system().now())?;
        let entries = self.how.token.as_deref().map(entries_of).transpose()?;
        let found = self.find(&selections, entries).await?;
        if let Some(missing) = missing(which, &found) {
            return Err(Unfinished::NotIssued(missing).into());
        }
        let token = token(&found, self.reason);
        let empty = found.serials.is_empty();
        let mut newer = 0;
        if let Some(shown) = &self.how.token {
            if *shown != token {
                let found = found.serials.len();
                return Err(Unfinished::OtherSelection { found }.into());
            }
            // What was issued since fulfils the criteria too, but was not shown.
            let now = self.find(&selections, None).await?;
            newer = now.serials.len().saturating_sub(found.serials.len());
        }
        let look = json!({
            // Nothing can be done with an empty one.
            "selection": (!empty).then_some(&token),
            "reason": self.reason,
            "matched": found.serials.len(),
            "statuses": found.statuses,
            "shown": found.shown.len(),
            "certificates": found.shown,
            "unmatched": found.unmatched(),
            "done": false,
        });
        let told = self.how.token.is_some() || self.how.yes;
        if self.how.dry_run || empty || !(told || self.asked(&look)?) {
            tell(self.output, &look, tell::look)?;
            return match (self.how.dry_run, told || self.interactive()) {
                (true, _) => Ok(()),
                (false, true) => Err(Unfinished::Empty.into()),
                (false, false) => Err(Unfinished::Unasked("--yes or --selection TOKEN").into()),
            };
        }
        self.perform(&found, &token, newer).await
    }

    /// All of what the selections name, page by page.
    async fn find(
        &self,
        selections: &[Selection],
        entries: Option<u64>,
    ) -> Result<Found, CliError> {
        let mut found = Found {
            entries: entries.unwrap_or(0),
            serials: Vec::new(),
            shown: Vec::new(),
            statuses: BTreeMap::new(),
            unmatched: BTreeSet::new(),
        };
        let named = selections.iter().flat_map(|part| &part.device_ids);
        found.unmatched = named.cloned().collect();
        let mut entries = entries;
        for selection in selections {
            let mut after = Value::Null;
            loop {
                let body = json!({ "selection": selection, "entries": entries, "after": after });
                let page = self
                    .daemon
                    .post("/v1/revocations/selection", Some(body))
                    .await?;
                found.entries = page
                    .get("entries")
                    .and_then(Value::as_u64)
                    .ok_or(Unfinished::Answer)?;
                // All further pages, and selections, are of the same entries.
                entries = Some(found.entries);
                found.take(&page)?;
                match page.get("next") {
                    None | Some(Value::Null) => break,
                    Some(next) => after = next.clone(),
                }
            }
        }
        Ok(found)
    }

    /// Shows the selection and asks, where somebody is there to be asked.
    fn asked(&self, look: &Value) -> Result<bool, CliError> {
        if !self.interactive() {
            return Ok(false);
        }
        let _shown = write!(io::stderr(), "{}", tell::table(look));
        let act = if self.releases() { "Release" } else { "Revoke" };
        let matched = look.get("matched").and_then(Value::as_u64).unwrap_or(0);
        let question = format!("{act} these {matched} certificates ({})?", self.reason);
        ask(&question)
    }

    /// Whether the operator wants it: said so, or says so now.
    fn confirmed(&self, question: &str) -> Result<bool, CliError> {
        if self.how.yes {
            return Ok(true);
        }
        if !self.interactive() || self.how.dry_run {
            return Ok(false);
        }
        ask(question)
    }

    /// Whether somebody is there to be asked.
    fn interactive(&self) -> bool {
        self.output == Output::Text && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Does it, a transaction at a time.
    async fn perform(&self, found: &Found, token: &str, newer: usize) -> Result<(), CliError> {
        let ended = end_on_interrupt();
        let mut sum = Sum::default();
        let mut failed = None;
        for serials in found.serials.chunks(limits::REVOCATIONS_MAX) {
            if ended.load(Ordering::SeqCst) {
                break;
            }
            let body = json!({
                "serials": serials,
                "reason": self.reason,
                "comment": self.how.comment,
                "selection": token,
            });
            match self.daemon.post("/v1/revocations", Some(body)).await {
                Ok(done) => sum.add(serials.len(), done),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            self.progress(sum.done, found.serials.len());
        }
        let (done, of) = (sum.done, found.serials.len());
        let (changed, refused) = (sum.changed, sum.refused.len());
        let mut told = sum.told(token, self.reason, of, newer);
        told["unmatched"] = found.unmatched();
        match self.output {
            Output::Json => print_json(&told)?,
            Output::Text => print(&tell::sum(&told))?,
        }
        if done < of {
            let source = failed;
            return Err(Unfinished::Early {
                done,
                of,
                changed,
                source,
            }
            .into());
        }
        if refused > 0 {
            return Err(Unfinished::Refused(refused).into());
        }
        // With a token, or after a question, they were shown before.
        let unseen = self.how.yes && self.how.token.is_none();
        if unseen && !found.unmatched.is_empty() {
            return Err(Unfinished::Unmatched(found.unmatched.len()).into());
        }
        Ok(())
    }

    /// How far it is, for whoever watches.
    fn progress(&self, done: usize, of: usize) {
        if self.output == Output::Text && of > limits::REVOCATIONS_MAX && io::stderr().is_terminal()
        {
            let end = if done == of { "\n" } else { "" };
            let _shown = write!(io::stderr(), "\r{done} of {of} certificates{end}");
        }
    }
}

/// What the parts came to together.
#[derive(Default)]
struct Sum {
    done: usize,
    changed: u64,
    unchanged: u64,
    refused: Vec<Value>,
    lines: Vec<Value>,
    uncertified: Vec<Value>,
    visible: Value,
}

impl Sum {
    /// Takes in the answer to a part.
    fn add(&mut self, serials: usize, mut answer: Value) {
        let number = |name| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.done += serials;
        self.changed += number("changed");
        self.unchanged += number("unchanged");
        for (name, list) in [
            ("refused", &mut self.refused),
            ("lines", &mut self.lines),
            ("uncertified", &mut self.uncertified),
        ] {
            if let Some(Value::Array(more)) = answer.get_mut(name) {
                list.append(more);
            }
        }
        // The newest part is visible last.
        if let Some(visible) = answer.get_mut("visible") {
            self.visible = visible.take();
        }
    }

    /// As it is told.
    fn told(self, token: &str, reason: RevocationReason, of: usize, newer: usize) -> Value {
        json!({
            "selection": token,
            "reason": reason,
            "matched": of,
            "done": self.done == of,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "refused": self.refused,
            "lines": self.lines,
            "uncertified": self.uncertified,
            "newer": newer,
            "visible": self.visible,
        })
    }
}

impl Found {
    /// Takes in a page.
    fn take(&mut self, page: &Value) -> Result<(), Unfinished> {
        let certificates = page.get("certificates").and_then(Value::as_array);
        for certificate in certificates.ok_or(Unfinished::Answer)? {
            let text = |name| certificate.get(name).and_then(Value::as_str);
            let serial = text("serial").and_then(|serial| serial.parse().ok());
            self.serials.push(serial.ok_or(Unfinished::Answer)?);
            if let Some(id) = text("device_id") {
                self.unmatched.remove(&arguments::fold(id));
            }
            let status = text("status").unwrap_or_default().to_owned();
            *self.statuses.entry(status).or_default() += 1;
            if self.shown.len() < SHOWN_MAX {
                self.shown.push(certificate.clone());
            }
        }
        Ok(())
    }

    /// The device ids without a certificate, as they are told: how many, and the first of them.
    fn unmatched(&self) -> Value {
        let first: Vec<_> = self.unmatched.iter().take(UNMATCHED_MAX).collect();
        json!({ "count": self.unmatched.len(), "device_ids": first })
    }
}

/// The token of a selection: its entries, and a digest of reason and serials.
fn token(found: &Found, reason: RevocationReason) -> String {
    let mut bytes = format!("{reason}\n").into_bytes();
    for serial in &found.serials {
        bytes.extend_from_slice(serial.as_bytes());
    }
    let digest = DetailHash::of(&bytes);
    let hex = certstatus::hex::encode(&digest.0);
    format!("{}-{}", found.entries, hex.get(..32).unwrap_or_default())
}

/// The entries that a token's selection is of.
fn entries_of(token: &str) -> Result<u64, Unfinished> {
    let entries = token
        .split_once('-')
        .and_then(|(entries, _)| entries.parse().ok());
    entries.ok_or_else(|| Unfinished::NotAToken(token.to_owned()))
}

/// A serial that was named and is not there although nothing else was asked of it.
fn missing(which: &Which, found: &Found) -> Option<SerialNumber> {
    let named = which.serials.iter();
    let mut gone = named.filter(|serial| !found.serials.contains(serial));
    // With other criteria, a serial that does not fulfil them is simply not meant.
    gone.next().copied().filter(|_| which.only_serials())
}

/// Asks on the terminal.
fn ask(question: &str) -> Result<bool, CliError> {
    let _shown = write!(io::stderr(), "{question} Type yes: ");
    let mut said = String::new();
    let read = io::stdin().lock().read_line(&mut said);
    read.map_err(|_| Unfinished::Declined)?;
    if said.trim() == "yes" {
        return Ok(true);
    }
    Err(Unfinished::Declined.into())
}

/// Becomes true when the operator interrupts: the part in work is finished, then it is told what was done.
fn end_on_interrupt() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            told.store(true, Ordering::SeqCst);
        }
    });
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A selection of so many serials.
    fn found(entries: u64, count: u8) -> Found {
        let serials = (0..count).map(|n| SerialNumber::from_random([n; 16]));
        Found {
            entries,
            serials: serials.collect(),
            shown: Vec::new(),
            statuses: BTreeMap::new(),
            unmatched: BTreeSet::new(),
        }
    }

    #[test]
    fn a_token_is_of_entries_reason_and_serials() {
        let (superseded, hold) = (
            RevocationReason::Superseded,
            RevocationReason::CertificateHold,
        );
        let one = token(&found(7, 3), superseded);
        assert_eq!(one, token(&found(7, 3), superseded));
        assert_eq!(entries_of(&one).unwrap(), 7);
        for other in [
            token(&found(8, 3), superseded),
            token(&found(7, 4), superseded),
            token(&found(7, 3), hold),
        ] {
            assert_ne!(one, other);
        }
        for bad in ["", "7", "x-1", "-"] {
            assert!(entries_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_nobody_said_yes_to_has_an_exit_code_of_its_own() {
        let three = ExitCode::from(3);
        for (unfinished, code) in [
            (Unfinished::Declined, three),
            (Unfinished::Unasked("--yes"), three),
            (Unfinished::Empty, ExitCode::FAILURE),
            (Unfinished::Unmatched(1), ExitCode::FAILURE),
        ] {
            assert_eq!(unfinished.code(), code, "{unfinished}");
        }
    }

    #[test]
    fn parts_are_summed_and_pages_counted() {
        let mut sum = Sum::default();
        let part = |visible: u64| json!({"changed": 2, "unchanged": 1, "refused": [{"serial": "s"}], "visible": {"log": visible}});
        sum.add(4, part(1));
        sum.add(4, part(2));
        let told = sum.told("7-x", RevocationReason::Superseded, 9, 0);
        assert_eq!(told["changed"], 4);
        assert_eq!(told["unchanged"], 2);
        assert_eq!(told["refused"].as_array().unwrap().len(), 2);
        assert_eq!(told["visible"], json!({"log": 2}));
        assert_eq!(told["done"], false, "8 of 9");
        let mut found = found(1, 0);
        let serial = SerialNumber::from_random([1; 16]);
        found.unmatched = ["dev-1", "dev-2"].map(str::to_owned).into();
        let page =
            json!({"certificates": [{"serial": serial, "status": "issued", "device_id": "Dev-1"}]});
        found.take(&page).unwrap();
        assert_eq!(
            found.unmatched(),
            json!({"count": 1, "device_ids": ["dev-2"]})
        );
        assert_eq!((found.serials.len(), found.statuses["issued"]), (1, 1));
        assert!(found.take(&json!({})).is_err());
    }
}
