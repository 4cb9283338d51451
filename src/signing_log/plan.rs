//! One transaction, decided: which appends become entries, at which index, and what else they change.
//!
//! Owns the rules of claims, keys, device ids, units and outcomes. Promises that the decisions are exact for
//! the batch in its order, as if each append had had a transaction of its own. Never touches the database:
//! what is durable comes in as [`View`] and [`Facts`], what is to become durable goes out as [`Plan`].
//! Failure story: a plan that does not become durable is dropped, or kept until recovery knows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use certstatus::log::entry::Slug;
use certstatus::log::merkle::{Hash, TileAt, leaf_hash};
use certstatus::log::tile::{Edge, encode_hashes};
use certstatus::log::{DetailHash, Entry, EntryKind, IssuerName, LeafIndex, Outcome, Subject};
use certstatus::{RevocationReason, SerialNumber, UnixMillis};
use tokio::sync::oneshot;

use super::append::{Append, CertificateRow, Closing, Effect, IntentDraft, Note, Sealed};
use super::error::{Holder, IntentRefused, LogError};
use super::intent::Intent;
use super::record::IssuerRecord;
use super::revocations::{
    Authorities, Decision, Revocable, Revocation, RevokeDraft, Revoked, RevokedRow, decide,
};
use crate::ra::{Change, ChangeRefused, Order, Registry, Units};

mod units;

/// How far the clock may stand before the newest entry: steps of a time service, not a wrong battery clock.
const CLOCK_BACK_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// What is durable, as the writer knows it.
pub(super) struct View {
    /// The tree.
    pub edge: Edge,
    /// The time of the newest entry.
    pub newest: UnixMillis,
    /// Intents without an outcome.
    pub open: BTreeSet<u64>,
    /// Lines and orders.
    pub registry: Registry,
    /// The issuers' own certificates.
    pub authorities: Authorities,
}

/// What is durable, as far as this batch asks for it.
#[derive(Default)]
pub(super) struct Facts {
    /// Certificates, open or issued, whose key or device id the batch names.
    pub live: Vec<Live>,
    /// The newest CRL numbers.
    pub crl_numbers: HashMap<IssuerName, u64>,
    /// Serials that the batch revokes, where they were issued or count as revoked.
    pub revocable: HashMap<SerialNumber, Revocable>,
    /// Certificates to be a line's, another of which was revoked for key-compromise after they were asked for.
    pub tainted: HashSet<SerialNumber>,
    /// Issuers that the batch names and that exist.
    pub issuers: HashSet<IssuerName>,
}

/// A certificate that holds its key and device id: its intent is open or it was issued.
pub(super) struct Live {
    pub intent: u64,
    pub serial: SerialNumber,
    pub profile: String,
    pub order: Option<String>,
    pub device_id: Option<String>,
    pub device_key: Option<String>,
    pub spki: DetailHash,
    pub requested: DetailHash,
}

/// What one transaction makes durable.
pub(super) struct Plan {
    /// The index of its first entry.
    pub first: u64,
    /// Leaves and details, in order.
    pub entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Certificates by intent.
    pub certificates: Vec<(u64, IssuerName, CertificateRow)>,
    /// New intents.
    pub opened: Vec<u64>,
    /// Intents with the entry of their outcome, and how they ended.
    pub closed: Vec<(u64, u64, Outcome)>,
    /// Serials that count as revoked from now on, or do so no more.
    pub revoked: Vec<RevokedRow>,
    /// Issuers by entry.
    pub issuers: Vec<(u64, IssuerRecord)>,
    /// Changes of the registry by entry.
    pub changes: Vec<(u64, Change)>,
    /// Orders whose units changed.
    pub units: BTreeMap<Slug, Units>,
    /// CRL numbers taken.
    pub crl_numbers: BTreeMap<IssuerName, u64>,
    /// Tiles that became full.
    pub tiles: Vec<(TileAt, Vec<u8>)>,
    /// The tree with these entries.
    pub edge: Edge,
    /// The time of the newest entry.
    pub newest: UnixMillis,
}

/// Who waits for a plan, and for what.
pub(super) enum Waiting {
    /// An intent that exists once the plan is durable.
    Intent {
        answer: oneshot::Sender<Result<Intent, IntentRefused>>,
        intent: Box<Intent>,
    },
    /// An intent refused, given that the rest becomes durable.
    Refused {
        answer: oneshot::Sender<Result<Intent, IntentRefused>>,
        refused: IntentRefused,
    },
    /// An outcome.
    Outcome {
        answer: Option<oneshot::Sender<Result<LeafIndex, LogError>>>,
        closing: Box<Closing>,
        index: LeafIndex,
    },
    /// Any other entry, or its refusal.
    Note {
        answer: Option<oneshot::Sender<Result<LeafIndex, LogError>>>,
        result: Result<LeafIndex, LogError>,
    },
    /// Revocations, each with what became of it.
    Revoked {
        answer: oneshot::Sender<Result<Vec<Revoked>, LogError>>,
        outcomes: Vec<Revoked>,
    },
}

impl Plan {
    /// Decides a batch.
    pub(super) fn make(
        batch: Vec<Append>,
        view: &View,
        facts: Facts,
        now: UnixMillis,
    ) -> (Self, Vec<Waiting>) {
        let mut planner = Planner::new(view, facts, now);
        let waiting = batch
            .into_iter()
            .filter_map(|append| planner.decide(append))
            .collect();
        (planner.finish(), waiting)
    }

    /// The size of the tree once it is durable.
    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }
}

/// The state of the decisions so far.
struct Planner<'a> {
    view: &'a View,
    facts: Facts,
    now: UnixMillis,
    plan: Plan,
    /// Places in `facts.live` by key and by device.
    by_key: HashMap<DetailHash, Vec<usize>>,
    by_device: HashMap<String, Vec<usize>>,
    /// Intents that end in the batch.
    ended: HashSet<u64>,
    /// Those of them that were not issued: they hold nothing any more.
    freed: HashSet<u64>,
    /// Orders as the batch leaves them so far.
    orders: BTreeMap<Slug, Order>,
    /// The issuers' certificates, once the batch changes how one of them stands.
    authorities: Option<Authorities>,
}

impl<'a> Planner<'a> {
    /// Starts from what is durable.
    fn new(view: &'a View, facts: Facts, now: UnixMillis) -> Self {
        let plan = Plan {
            first: view.edge.size(),
            entries: Vec::new(),
            certificates: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            revoked: Vec::new(),
            issuers: Vec::new(),
            changes: Vec::new(),
            units: BTreeMap::new(),
            crl_numbers: BTreeMap::new(),
            tiles: Vec::new(),
            edge: view.edge.clone(),
            // Entries share the batch's time; the log's time never runs back.
            newest: now.max(view.newest),
        };
        let mut planner = Self {
            view,
            facts: Facts::default(),
            now,
            plan,
            by_key: HashMap::new(),
            by_device: HashMap::new(),
            ended: HashSet::new(),
            freed: HashSet::new(),
            orders: BTreeMap::new(),
            authorities: None,
        };
        let Facts { live, .. } = &facts;
        for (place, live) in live.iter().enumerate() {
            planner.by_key.entry(live.spki).or_default().push(place);
            if let Some(key) = &live.device_key {
                planner
                    .by_device
                    .entry(key.clone())
                    .or_default()
                    .push(place);
            }
        }
        planner.facts = facts;
        planner
    }

    /// Decides one append. Controls of the writer are none of ours.
    fn decide(&mut self, append: Append) -> Option<Waiting> {
        Some(match append {
            Append::Intent { draft, answer } => match self.intent(*draft) {
                Ok(intent) => Waiting::Intent {
                    answer,
                    intent: Box::new(intent),
                },
                Err(refused) => Waiting::Refused { answer, refused },
            },
            Append::Outcome { closing, answer } => match self.outcome(&closing) {
                Ok(index) => Waiting::Outcome {
                    answer,
                    closing,
                    index,
                },
                Err(error) => Waiting::Note {
                    answer,
                    result: Err(error),
                },
            },
            Append::Note { note, answer } => Waiting::Note {
                answer,
                result: self.note(*note),
            },
            Append::Revoke { draft, answer } => Waiting::Revoked {
                answer,
                outcomes: self.revoke(*draft),
            },
            Append::Recover { .. } | Append::Stop { .. } => return None,
        })
    }

    /// Appends an entry and returns its index.
    fn push(&mut self, kind: EntryKind, detail: Option<Sealed>) -> u64 {
        let index = self.plan.edge.size();
        let entry = Entry {
            index: LeafIndex(index),
            time: self.plan.newest,
            kind,
            detail: detail.as_ref().map(|detail| detail.hash),
        };
        let leaf = entry.encode();
        let tiles = &mut self.plan.tiles;
        let full = |at, hashes: &[Hash]| tiles.push((at, encode_hashes(hashes)));
        self.plan.edge.push(leaf_hash(&leaf), full);
        self.plan
            .entries
            .push((leaf, detail.map(|detail| detail.bytes)));
        index
    }

    /// Takes an intent: clock, claim, key, device id, then the order.
    fn intent(&mut self, draft: IntentDraft) -> Result<Intent, IntentRefused> {
        let newest = self.view.newest;
        if self.now.saturating_add(CLOCK_BACK_MAX) < newest {
            let now = self.now;
            return Err(LogError::ClockBackwards { now, newest }.into());
        }
        if let Subject::Crl { number, .. } = draft.subject {
            self.take_crl_number(&draft.issuer, number)?;
        }
        if let Some(row) = &draft.certificate {
            let authorities = self.authorities.as_ref().unwrap_or(&self.view.authorities);
            if let Some(issuer) = authorities.forbids(&draft.issuer, row.why) {
                let issuer = issuer.clone();
                return Err(IntentRefused::IssuerRevoked { issuer });
            }
            self.admit(row)?;
            if let (Some(line), Some(renewed)) = (&row.line, row.renews) {
                // The request may be older than the operator's act.
                let may = self.view.registry.renews_still(line, renewed);
                may.map_err(IntentRefused::Order)?;
            }
            self.approved(row)?;
            if let Some(unit) = &row.unit {
                self.take_unit(unit, &draft.issuer)?;
            }
        }
        let IntentDraft {
            issuer,
            subject,
            key,
            algorithm,
            tbs,
            detail,
            certificate,
        } = draft;
        let kind = EntryKind::Intent {
            issuer: issuer.clone(),
            subject,
        };
        let index = self.push(kind, Some(detail));
        self.plan.opened.push(index);
        let mut order = None;
        if let Some(row) = certificate {
            order = row.unit.as_ref().map(|unit| unit.order.clone());
            self.hold(index, &row);
            self.plan.certificates.push((index, issuer.clone(), row));
        }
        Ok(Intent {
            index: LeafIndex(index),
            issuer,
            subject,
            key,
            algorithm,
            tbs,
            order,
        })
    }

    /// Checks that the key of a responder's certificate is approved: whoever asked did so before an operator's act.
    fn approved(&self, row: &CertificateRow) -> Result<(), IntentRefused> {
        let Some(responder) = &row.responder else {
            return Ok(());
        };
        let approved = self.view.registry.responder(responder);
        if approved.is_some_and(|approved| approved.sha256 == row.spki) {
            return Ok(());
        }
        let responder = responder.clone();
        Err(IntentRefused::NotApproved { responder })
    }

    /// Checks that nobody has the claim, the key or the device id.
    fn admit(&self, row: &CertificateRow) -> Result<(), IntentRefused> {
        let held = self.held(self.by_key.get(&row.spki));
        let Some(unit) = &row.unit else {
            // Lines and servers renew with the key that they have; a device's key is none of theirs.
            return match held.into_iter().find(|live| live.device_key.is_some()) {
                Some(live) => Err(self.key_used(live, row)),
                None => Ok(()),
            };
        };
        let same = |live: &&Live| {
            live.device_key.is_some()
                && live.order.as_deref() == Some(unit.order.as_str())
                && live.requested == row.requested
        };
        if held.iter().copied().any(|live| same(&live)) {
            return Err(IntentRefused::ClaimTaken);
        }
        if let Some(live) = held.first() {
            return Err(self.key_used(live, row));
        }
        match self.held(self.by_device.get(&unit.device_key)).first() {
            Some(live) => Err(IntentRefused::DeviceIdUsed {
                device_id: unit.device_id.clone(),
                serial: self.may_know(live, row).then_some(live.serial),
            }),
            None => Ok(()),
        }
    }

    /// The refusal of a key that a certificate holds.
    fn key_used(&self, live: &Live, row: &CertificateRow) -> IntentRefused {
        let holder = self.may_know(live, row).then(|| Holder {
            device_id: live
                .device_id
                .clone()
                .unwrap_or_else(|| live.profile.clone()),
            serial: live.serial,
        });
        IntentRefused::KeyUsed { holder }
    }

    /// Whether whoever asks for one certificate may know of another: a line knows those of its orders only.
    fn may_know(&self, live: &Live, row: &CertificateRow) -> bool {
        let Some(line) = &row.line else {
            return true;
        };
        let order = live.order.as_deref().and_then(|name| name.parse().ok());
        let order = order.and_then(|name: Slug| self.view.registry.order(&name));
        order.is_some_and(|order| order.terms.lines.contains(line))
    }

    /// The certificates at these places that the batch has not set free.
    fn held(&self, places: Option<&Vec<usize>>) -> Vec<&Live> {
        places
            .into_iter()
            .flatten()
            .filter_map(|place| self.facts.live.get(*place))
            .filter(|live| !self.freed.contains(&live.intent))
            .collect()
    }

    /// Remembers a certificate for the rest of the batch.
    fn hold(&mut self, intent: u64, row: &CertificateRow) {
        let unit = row.unit.as_ref();
        let place = self.facts.live.len();
        self.by_key.entry(row.spki).or_default().push(place);
        if let Some(unit) = unit {
            self.by_device
                .entry(unit.device_key.clone())
                .or_default()
                .push(place);
        }
        self.facts.live.push(Live {
            intent,
            serial: row.serial,
            profile: row.profile.clone(),
            order: unit.map(|unit| unit.order.to_string()),
            device_id: unit.map(|unit| unit.device_id.clone()),
            device_key: unit.map(|unit| unit.device_key.clone()),
            spki: row.spki,
            requested: row.requested,
        });
    }

    /// Takes a CRL number: each is larger than all before.
    fn take_crl_number(&mut self, issuer: &IssuerName, number: u64) -> Result<(), IntentRefused> {
        let durable = self.facts.crl_numbers.get(issuer);
        let last = self.plan.crl_numbers.get(issuer).or(durable);
        if last.is_some_and(|last| *last >= number) {
            let problem = "its CRL number is not larger than the last";
            return Err(IntentRefused::Object { problem });
        }
        self.plan.crl_numbers.insert(issuer.clone(), number);
        Ok(())
    }

    /// Takes an outcome: exactly one for each intent.
    fn outcome(&mut self, closing: &Closing) -> Result<LeafIndex, LogError> {
        let intent = closing.intent.0;
        if !self.view.open.contains(&intent) || !self.ended.insert(intent) {
            let fault = format!("the intent at {intent} has an outcome already");
            return Err(LogError::Damaged(fault));
        }
        let kind = EntryKind::Outcome {
            intent: closing.intent,
            issuer: closing.issuer.clone(),
            subject: closing.subject,
            outcome: closing.outcome,
        };
        let detail = Sealed {
            bytes: closing.detail.bytes.clone(),
            hash: closing.detail.hash,
        };
        let index = self.push(kind, Some(detail));
        self.plan.closed.push((intent, index, closing.outcome));
        if !matches!(closing.outcome, Outcome::Issued { .. }) {
            self.freed.insert(intent);
        }
        if let Some(order) = &closing.order {
            self.return_unit(order, closing.outcome);
        }
        if let (Outcome::Unresolved { .. }, Subject::Certificate { serial, .. }) =
            (closing.outcome, closing.subject)
        {
            self.plan.revoked.push(RevokedRow {
                serial,
                issuer: closing.issuer.clone(),
                entry: index,
                reason: None,
                revoked_at: self.second(),
                previous: None,
            });
        }
        Ok(LeafIndex(index))
    }

    /// The batch's time, in whole seconds.
    const fn second(&self) -> UnixMillis {
        UnixMillis::from_seconds(self.plan.newest.seconds())
    }

    /// The second by the clock: where that was ahead for a while the log's time is still, and who checks a certificate
    /// believes no revocation before its date.
    const fn this_second(&self) -> UnixMillis {
        UnixMillis::from_seconds(self.now.seconds())
    }

    /// Takes any other entry.
    fn note(&mut self, note: Note) -> Result<LeafIndex, LogError> {
        let Note {
            kind,
            detail,
            effect,
        } = note;
        match &effect {
            Effect::None => {}
            // The writer gives each change a batch of its own, so the registry is as it stands.
            Effect::Change(change) => {
                self.unrevoked(change)?;
                self.view.registry.admit(change, self.now)?;
            }
            Effect::Issuer(record) => {
                if !self.facts.issuers.insert(record.name.clone()) {
                    let name = format!("issuer {}", record.name);
                    return Err(ChangeRefused::Exists(name).into());
                }
            }
        }
        let index = self.push(kind, detail);
        match effect {
            Effect::None => {}
            Effect::Change(change) => {
                if let Change::UnitsReturned { order, units } = &change {
                    self.give_back(order, *units);
                }
                self.plan.changes.push((index, change));
            }
            Effect::Issuer(record) => self.plan.issuers.push((index, *record)),
        }
        Ok(LeafIndex(index))
    }

    /// Refuses to let a certificate authenticate that was revoked between its issue and this entry.
    fn unrevoked(&self, change: &Change) -> Result<(), ChangeRefused> {
        let Some(certificate) = change.certifies() else {
            return Ok(());
        };
        let serial = certificate.serial;
        let found = self.facts.revocable.get(&serial);
        let standing = found.and_then(|found| found.standing);
        let problem = if standing.is_some_and(|standing| standing.counts()) {
            format!("{serial} was revoked meanwhile: ask for another")
        } else if self.facts.tainted.contains(&serial) {
            format!(
                "{serial} was issued before another certificate of the line was revoked for key-compromise: whoever has \
                 that key could have asked for it. Ask for another"
            )
        } else {
            return Ok(());
        };
        Err(ChangeRefused::Value {
            key: "certificate",
            problem,
        })
    }

    /// Takes revocations, each as its serial stands after those before it.
    fn revoke(&mut self, draft: RevokeDraft) -> Vec<Revoked> {
        let RevokeDraft { reason, serials } = draft;
        let each = serials.into_iter();
        each.map(|(serial, detail)| {
            let found = self.facts.revocable.get(&serial);
            match decide(serial, found, reason, self.this_second()) {
                Decision::Stands(standing) => Revoked::Unchanged(standing),
                Decision::Refused(refused) => Revoked::Refused(refused),
                Decision::Append(revoked_at) => {
                    Revoked::Changed(self.append_revoked(serial, reason, revoked_at, detail))
                }
            }
        })
        .collect()
    }

    /// Appends a revocation that was decided, of a serial whose facts are there.
    fn append_revoked(
        &mut self,
        serial: SerialNumber,
        reason: RevocationReason,
        revoked_at: UnixMillis,
        detail: Sealed,
    ) -> Revocation {
        let index = self.plan.edge.size();
        let standing = Revocation {
            revoked_at,
            reason: Some(reason),
            entry: LeafIndex(index),
        };
        let Some(found) = self.facts.revocable.get_mut(&serial) else {
            return standing;
        };
        let previous = found.standing.replace(standing);
        let issuer = found.issuer.clone();
        let kind = EntryKind::Revoked {
            issuer: issuer.clone(),
            serial,
            reason: reason.code(),
            revoked_at,
        };
        self.push(kind, Some(detail));
        self.plan.revoked.push(RevokedRow {
            serial,
            issuer,
            entry: index,
            reason: Some(reason),
            revoked_at,
            previous: previous.map(|previous| previous.entry.0),
        });
        if self.view.authorities.knows(&serial) {
            let view = &self.view.authorities;
            let authorities = self.authorities.get_or_insert_with(|| view.clone());
            authorities.note(serial, standing);
        }
        standing
    }

    /// The plan. A batch without entries leaves the log's time alone.
    fn finish(mut self) -> Plan {
        if self.plan.entries.is_empty() {
            self.plan.newest = self.view.newest;
        }
        self.plan
    }
}
