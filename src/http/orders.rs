//! Certificates under an order, one or many at a time.
//!
//! Owns the two issuing endpoints. Promises that the form of the answer is settled before anything is
//! issued, that a batch has bounded work and memory, and that its answers come in its order. Failure story:
//! each request is answered by itself; a client that goes away leaves at most one batch's window in work.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use super::accept::{self, Form, Told};
use super::batch::{Batch, Item};
use super::problem::{Problem, kind};
use super::{Api, Asked, Peer, body, in_time};
use crate::limits;
use crate::ra::Line;

/// Answers of a batch that wait for a slow reader, beside the window in work.
const ANSWERS_WAITING_MAX: usize = 16;

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
        let proved = line.insert(proved);
        let wanted = Form::wanted(&headers)?;
        let Query(query) = query.map_err(|_| query_refused())?;
        let csr = body::read(request, limits::CSR_BYTES_MAX).await?;
        let _place = api.in_flight()?;
        let issuance = &api.inner.issuance;
        let work = issuance.device(proved, &order, &csr, query.device_id.as_deref());
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
        let place = api.batch()?;
        let bytes = body::read(request, limits::BATCH_BYTES_MAX).await?;
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
    tokio::spawn(work_off(api, peer, order, batch, to, place));
    let mut response = Response::new(Body::new(Answers(answers)));
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static("application/x-ndjson");
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Works a batch off: so many items at a time, answers in order, no further than the reader follows.
async fn work_off(
    api: Api,
    peer: Peer,
    order: String,
    batch: Batch,
    to: mpsc::Sender<Bytes>,
    place: OwnedSemaphorePermit,
) {
    let mut items = batch.enumerate();
    let mut in_work: VecDeque<JoinHandle<Bytes>> = VecDeque::new();
    loop {
        while in_work.len() < limits::BATCH_IN_FLIGHT_MAX {
            let Some((index, item)) = items.next() else {
                break;
            };
            let (api, order) = (api.clone(), order.clone());
            in_work.push_back(tokio::spawn(async move {
                one(&api, peer, &order, index, item).await
            }));
        }
        let Some(oldest) = in_work.pop_front() else {
            break;
        };
        // A task that ends without an answer panicked in a parser; the other items are not its concern.
        let answer = oldest.await.unwrap_or_else(|error| {
            line_of(&Outcome::Problem {
                problem: Problem::internal(&error),
            })
        });
        if to.send(answer).await.is_err() {
            tracing::debug!("the client of a batch went away: what is not in work is left");
            break;
        }
    }
    drop(place);
}

/// One item: its answer as a line of NDJSON.
async fn one(api: &Api, peer: Peer, order: &str, index: usize, item: Item) -> Bytes {
    let Item { id, device_id, csr } = item;
    let mut line = None;
    let outcome = async {
        // On each item, since a batch may take minutes and a line may be disabled meanwhile.
        let proved = api.line(peer).map_err(|refused| Problem::from(&refused))?;
        let proved = line.insert(proved);
        let csr = csr?;
        let issuance = &api.inner.issuance;
        let work = issuance.device(proved, order, &csr, device_id.as_deref());
        let answer = in_time(work)
            .await?
            .map_err(|error| Problem::from(&error))?;
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
struct Answers(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Answers {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
