//! Certificates under an order, one or many at a time.
//!
//! Owns the two issuing endpoints. Promises that the form of the answer is settled before anything is
//! issued, that a batch has bounded work, memory and time, that its place is taken until the last of its items has ended, and
//! that its answers come in its order. Failure story: each request is answered by itself; a client that goes away leaves at
//! most one batch's window in work, and none of it waits for a turn any more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use certstatus::log::entry::Slug;
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::accept::{self, Form, Told};
use super::batch::{Batch, Item};
use super::problem::{Problem, kind};
use super::shares::Place;
use super::{Api, Asked, Peer, body, in_time};
use crate::issuance::IssueError;
use crate::limits;
use crate::ra::Line;

/// Answers of a batch that wait for a slow reader, beside the window in work.
const ANSWERS_WAITING_MAX: usize = 16;

/// The time that an answer of a batch may wait for its reader: then the batch's place is for others.
const READER_DEADLINE: Duration = Duration::from_secs(60);

/// The pause of a batch whose line has all its places taken: shorter than signing takes.
const PLACE_PAUSE: Duration = Duration::from_millis(20);

/// The query of a single request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SingleQuery {
    device_id: Option<String>,
}

/// The query of a batch: there is none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchQuery {}

/// `POST /v1/orders/{order}/certificates`.
pub(super) async fn certificate(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    order: Result<Path<String>, PathRejection>,
    query: Result<Query<SingleQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Body,
) -> Response {
    let order = order.map_or_else(|_| String::new(), |Path(order)| order);
    let (mut line, device_id) = match &query {
        Ok(Query(query)) => (None, query.device_id.clone()),
        Err(_) => (None, None),
    };
    let answered = async {
        let proved = api.line(peer).map_err(|refused| Problem::from(&refused))?;
        line = Some(proved);
        let wanted = Form::wanted(&headers)?;
        let Query(query) = query.map_err(|_| query_refused())?;
        let csr = body::read(request, limits::CSR_BYTES_MAX).await?;
        // Again: whoever sends slowly may have been disabled or revoked meanwhile.
        let proved = api.line(peer).map_err(|refused| Problem::from(&refused))?;
        let proved = line.insert(proved);
        let place = api.in_flight(proved)?;
        let issuance = &api.inner.issuance;
        let work = issuance.device(proved, &order, &csr, query.device_id.as_deref(), place);
        let answer = in_time(work)
            .await?
            .map_err(|error| Problem::from(&error))?;
        api.inner.metrics.issued(&order, answer.origin);
        accept::response(&answer, wanted)
    };
    match answered.await {
        Ok(response) => response,
        Err(problem) => {
            let asked = Asked {
                order: Some(&order),
                line: line.as_ref().map(Line::name),
                device_id: device_id.as_deref(),
            };
            api.note(&problem, peer, asked);
            problem.into_response()
        }
    }
}

/// A query with something else than `device_id`.
fn query_refused() -> Problem {
    let detail = "the URL's query may have device_id once (percent-encoded) on a single request, and nothing else";
    Problem::new(&kind::QUERY_REFUSED, detail)
}

/// `POST /v1/orders/{order}/batches`.
pub(super) async fn batch(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    order: Result<Path<String>, PathRejection>,
    query: Result<Query<BatchQuery>, QueryRejection>,
    request: Body,
) -> Response {
    let order = order.map_or_else(|_| String::new(), |Path(order)| order);
    let mut line = None;
    let begun = async {
        let proved = api.line(peer).map_err(|refused| Problem::from(&refused))?;
        let proved = line.insert(proved);
        query.map_err(|_| query_refused())?;
        let registry = api.inner.log.registry();
        registry
            .order_for(proved, &order)
            .map_err(|refused| Problem::from(&refused))?;
        let arriving = api.batch_body(proved)?;
        let bytes = body::read(request, limits::BATCH_BYTES_MAX).await?;
        // Only a batch that is all there takes a place among those in work.
        let place = api.batch(proved)?;
        drop(arriving);
        Ok((Batch::split(&bytes)?, place))
    };
    let (batch, place) = match begun.await {
        Ok(begun) => begun,
        Err(problem) => {
            let asked = Asked {
                order: Some(&order),
                line: line.as_ref().map(Line::name),
                device_id: None,
            };
            api.note(&problem, peer, asked);
            return problem.into_response();
        }
    };
    let (to, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
    tokio::spawn(async move {
        let worked_off = work_off(api, peer, order, batch, to, place);
        if timeout(limits::BATCH_DEADLINE, worked_off).await.is_err() {
            tracing::warn!("a batch took too long: what is not in work is left");
        }
    });
    let mut response = Response::new(Body::new(Answers(answers)));
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static("application/x-ndjson");
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Works a batch off: so many items at a time, answers in order, no further than the reader follows.
///
/// `place` is the batch's: whatever ends this, it is taken until the items in work have ended.
pub(super) async fn work_off(
    api: Api,
    peer: Peer,
    order: String,
    batch: Batch,
    to: mpsc::Sender<Answer>,
    place: Place<Slug>,
) {
    let place = Arc::new(place);
    let patience = Patience {
        until: Instant::now() + limits::BATCH_TRIES,
        reader: to.downgrade(),
    };
    let mut items = batch.enumerate().peekable();
    let mut in_work: VecDeque<(usize, JoinHandle<Bytes>)> = VecDeque::new();
    loop {
        while items.peek().is_some() && in_work.len() < limits::BATCH_IN_FLIGHT_MAX {
            let begin = match begin_now(&api, peer) {
                Begin::Now(begin) => begin,
                Begin::Later => break,
            };
            let Some((index, item)) = items.next() else {
                break;
            };
            let (api, order) = (api.clone(), order.clone());
            let (patience, place) = (patience.clone(), Arc::clone(&place));
            let work = async move {
                let answer = one(&api, peer, begin, &order, (index, item), &patience).await;
                drop(place);
                answer
            };
            in_work.push_back((index, tokio::spawn(work)));
        }
        let Some((index, oldest)) = in_work.pop_front() else {
            if items.peek().is_none() {
                break;
            }
            if to.is_closed() {
                return;
            }
            // All the line's places are taken by others: this batch goes on when one comes back.
            sleep(PLACE_PAUSE).await;
            continue;
        };
        // A task that ends without an answer panicked in a parser; the other items are not its concern.
        let answer = oldest.await.unwrap_or_else(|error| {
            line_of(&Answered {
                index,
                id: None,
                device_id: None,
                outcome: Outcome::Problem {
                    problem: Problem::internal(&error),
                },
            })
        });
        match to.send_timeout(Answer::Line(answer), READER_DEADLINE).await {
            Ok(()) => {}
            Err(gone) => {
                tracing::debug!(%gone, "the client of a batch does not read: what is not in work is left");
                return;
            }
        }
    }
    // Only now is the answer complete; without this its end would look like a whole one.
    let _told = to.send_timeout(Answer::End, READER_DEADLINE).await;
}

/// Whether an item of a batch can begin.
enum Begin {
    /// It can, with the line and its place among the requests in work, or its refusal.
    Now(Result<(Line, Place<Slug>), Problem>),
    /// There is no place now.
    Later,
}

/// Judges the line anew, since a batch may take minutes, and finds a place for one item.
fn begin_now(api: &Api, peer: Peer) -> Begin {
    let line = match api.line(peer) {
        Ok(line) => line,
        Err(refused) => return Begin::Now(Err(Problem::from(&refused))),
    };
    match api.in_flight(&line) {
        Ok(place) => Begin::Now(Ok((line, place))),
        Err(_busy) => Begin::Later,
    }
}

/// As [`begin_now`], once there is a place.
async fn begin_again(
    patience: &Patience,
    begin: impl Fn() -> Begin,
) -> Result<(Line, Place<Slug>), Problem> {
    loop {
        match begin() {
            Begin::Now(begun) => return begun,
            Begin::Later if patience.ended() => return Err(Problem::busy()),
            Begin::Later => sleep(PLACE_PAUSE).await,
        }
    }
}

/// How long the items of a batch wait for their turn: for a while, and only while somebody wants their answers.
#[derive(Clone)]
struct Patience {
    until: Instant,
    /// Weak, so that an item in work does not hide that the batch was left.
    reader: mpsc::WeakSender<Answer>,
}

impl Patience {
    /// Nothing waits any more.
    fn ended(&self) -> bool {
        let reader = self.reader.upgrade();
        Instant::now() >= self.until || reader.is_none_or(|to| to.is_closed())
    }

    /// Whether an item asks again: a batch is there to be worked off at the token's pace.
    fn asks_again(&self, error: &IssueError) -> bool {
        matches!(error, IssueError::Crowded { .. }) && !self.ended()
    }
}

/// A piece of a batch's answer on its way to the connection.
#[derive(Debug)]
pub(super) enum Answer {
    /// One item's line.
    Line(Bytes),
    /// There are no more items.
    End,
}

/// A batch's answer ends before its last item: the connection is cut, so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("the batch was left before its end")]
struct Left;

/// One item: its answer as a line of NDJSON. Until then it waits for its turn at a token that has too much to sign.
async fn one(
    api: &Api,
    peer: Peer,
    begin: Result<(Line, Place<Slug>), Problem>,
    order: &str,
    (index, item): (usize, Item),
    patience: &Patience,
) -> Bytes {
    let Item { id, device_id, csr } = item;
    let mut line = None;
    let outcome = async {
        let (mut begun, csr) = (begin?, csr?);
        let issuance = &api.inner.issuance;
        let answer = loop {
            let (proved, place) = begun;
            let proved = line.insert(proved);
            let work = issuance.device(proved, order, &csr, device_id.as_deref(), place);
            match in_time(work).await? {
                Err(error) if patience.asks_again(&error) => {}
                answered => break answered.map_err(|error| Problem::from(&error))?,
            }
            begun = begin_again(patience, || begin_now(api, peer)).await?;
        };
        api.inner.metrics.issued(order, answer.origin);
        Told::of(&answer)
    };
    let outcome = match outcome.await {
        Ok(told) => Outcome::Issued(told),
        Err(problem) => {
            let asked = Asked {
                order: Some(order),
                line: line.as_ref().map(Line::name),
                device_id: device_id.as_deref(),
            };
            api.note(&problem, peer, asked);
            Outcome::Problem { problem }
        }
    };
    line_of(&Answered {
        index,
        id: id.as_deref(),
        device_id: device_id.as_deref(),
        outcome,
    })
}

/// A line of a batch's answer.
#[derive(Serialize)]
struct Answered<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a str>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What an item came to.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    /// Its certificate.
    Issued(Told),
    /// Why there is none.
    Problem {
        /// The document.
        problem: Problem,
    },
}

/// A value as a line of NDJSON.
fn line_of(value: &impl Serialize) -> Bytes {
    // Strings and integers always serialise.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    Bytes::from(line)
}

/// A batch's answer as it grows.
struct Answers(mpsc::Receiver<Answer>);

impl hyper::body::Body for Answers {
    type Data = Bytes;
    type Error = Left;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Left>>> {
        self.0.poll_recv(cx).map(|piece| match piece {
            Some(Answer::Line(line)) => Some(Ok(Frame::data(line))),
            Some(Answer::End) => None,
            None => Some(Err(Left)),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_batch_that_was_left_does_not_look_whole() {
        for (last, whole) in [(Some(Answer::End), true), (None, false)] {
            let (to, answers) = mpsc::channel(4);
            let line = Answer::Line(Bytes::from_static(b"{}\n"));
            to.send(line).await.unwrap();
            if let Some(last) = last {
                to.send(last).await.unwrap();
            }
            drop(to);
            assert_eq!(Answers(answers).collect().await.is_ok(), whole);
        }
    }

    #[tokio::test]
    async fn items_wait_for_their_turn_only_while_there_is_time_and_a_reader() {
        let crowded = IssueError::Crowded {
            retry_after: Duration::from_secs(1),
        };
        let hour = Duration::from_secs(3600);
        for (left, read, expected) in [
            (hour, true, true),
            (Duration::ZERO, true, false),
            (hour, false, false),
        ] {
            let (to, answers) = mpsc::channel(1);
            let patience = Patience {
                until: Instant::now() + left,
                reader: to.downgrade(),
            };
            let answers = read.then_some(answers);
            assert_eq!(patience.asks_again(&crowded), expected);
            assert!(!patience.asks_again(&IssueError::NoToken));
            let place = begin_again(&patience, || Begin::Later);
            let ended = timeout(10 * PLACE_PAUSE, place).await;
            assert_eq!(ended.is_err(), expected, "it waits for a place");
            if let Ok(ended) = ended {
                assert_eq!(ended.map(drop).unwrap_err().rule(), "busy");
            }
            drop((to, answers));
            assert!(patience.ended(), "the batch was left");
        }
    }

    #[test]
    fn an_item_s_answer_is_one_line() {
        let answered = Answered {
            index: 3,
            id: Some("a\nb"),
            device_id: None,
            outcome: Outcome::Problem {
                problem: Problem::late(),
            },
        };
        let line = line_of(&answered);
        assert_eq!(line.iter().filter(|c| **c == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&value["index"], &value["id"]), (&3.into(), &"a\nb".into()));
        assert_eq!(value["problem"]["retry_after_seconds"], 1);
    }
}
