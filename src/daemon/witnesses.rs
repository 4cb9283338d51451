//! The start's question to the witnesses, before recovery and before anything is signed.
//!
//! Promises that a store which a witness proves not to be the newest appends, publishes and signs nothing, unless the
//! operator said so; then the log says it before the first issuer is loaded. Failure story: witnesses that cannot be
//! heard are warnings, told once; a refusal ends the start.

use certstatus::log::UNWITNESSED_START;

use super::{DaemonError, RETRY_PAUSE, Told};
use crate::config::Config;
use crate::signing_log::{LogError, SigningLog};
use crate::witnesses::{self, Board, Testimony, Unwitnessed};

/// What the log has to be told, if the operator accepted a start that the witnesses do not confirm.
#[derive(Debug)]
pub(super) struct Acceptance(Option<Testimony>);

/// Asks the witnesses and judges what they say.
pub(super) async fn ask(
    config: &Config,
    log: &SigningLog,
    board: &Board,
    unwitnessed: Unwitnessed,
) -> Result<Acceptance, DaemonError> {
    let heard = witnesses::hear(&config.witnesses, log.origin(), log.verifier()).await;
    let mut told = Told::default();
    let testimony = loop {
        match Testimony::of(&config.witnesses, &heard, log).await {
            Ok(testimony) => break testimony,
            Err(error @ LogError::Damaged(_)) => return Err(error.into()),
            Err(error) => {
                if let Some(text) = told.news(&error) {
                    tracing::warn!(error = %text, "the store cannot be compared with its witnesses; it is tried again");
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    };
    board.tell(testimony.witnesses());
    testimony.tell();
    match (testimony.judge(), unwitnessed) {
        (Err(refused), Unwitnessed::Refuse) => Err(refused.into()),
        (Ok(()), Unwitnessed::Refuse) => Ok(Acceptance(None)),
        (judged, Unwitnessed::Accept) => {
            if let Err(refused) = judged {
                tracing::error!(%refused, "--accept-unwitnessed: the start goes on all the same");
            }
            Ok(Acceptance((!testimony.is_confirmed()).then_some(testimony)))
        }
    }
}

impl Acceptance {
    /// Has the log say that the operator accepted; to be called as soon as it takes entries, before any issuer is loaded.
    pub(super) async fn record(self, log: &SigningLog) -> Result<(), DaemonError> {
        let Some(testimony) = self.0 else {
            return Ok(());
        };
        let event = UNWITNESSED_START.parse();
        let event: certstatus::log::EventName =
            event.expect("\"unwitnessed-start\" has the form of an event's name");
        let data = serde_json::to_value(&testimony).expect("a testimony has string keys only");
        let mut told = Told::default();
        loop {
            match log.record_event(event.clone(), data.clone()).await {
                Ok(index) => {
                    tracing::warn!(entry = %index, "the log says that this start was accepted without its witnesses");
                    return Ok(());
                }
                // Waiting mends neither.
                Err(error @ (LogError::Stopping | LogError::Change(_))) => return Err(error.into()),
                Err(error) => {
                    if let Some(text) = told.news(&error) {
                        tracing::warn!(error = %text, "the accepted start is not logged yet; it is tried again");
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}
