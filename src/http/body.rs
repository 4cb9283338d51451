//! Request bodies, within bytes and time.
//!
//! Promises that no body takes more memory or time than its limit. Failure story: a problem that says which.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes};
use tokio::time::timeout;

use super::problem::{Problem, kind};
use crate::limits;

/// Reads a whole body.
///
/// # Errors
/// [`Problem`]: too long, too slow or cut off.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    read_within(body, bytes_max, limits::BODY_DEADLINE).await
}

/// As [`read`], with the time that it may take.
async fn read_within(body: Body, bytes_max: usize, deadline: Duration) -> Result<Bytes, Problem> {
    // What the length header says is enough to refuse, before the client has sent it all.
    if usize::try_from(body.size_hint().lower()).is_ok_and(|length| length > bytes_max) {
        return Err(Problem::too_long(bytes_max));
    }
    let whole = timeout(deadline, Limited::new(body, bytes_max).collect());
    match whole.await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_long(bytes_max)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a body was cut off");
            let detail = "the body ended before it was complete: send the request again";
            Err(Problem::new(&kind::BROKEN_BODY, detail))
        }
        Err(_late) => {
            let detail = "the body took too long to arrive: send the request again";
            Err(Problem::new(&kind::SLOW_BODY, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of unknown length: some bytes, then an end, a fault or silence.
    struct Pieces {
        left: usize,
        then: Poll<Option<std::io::ErrorKind>>,
    }

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            if self.left > 0 {
                self.left -= 1;
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))));
            }
            self.then.map(|fault| fault.map(|kind| Err(kind.into())))
        }
    }

    /// The outcome of reading such a body with a limit of 3 bytes and little time.
    async fn outcome(
        left: usize,
        then: Poll<Option<std::io::ErrorKind>>,
    ) -> Result<Bytes, &'static str> {
        let body = Body::new(Pieces { left, then });
        let outcome = read_within(body, 3, Duration::from_millis(20)).await;
        outcome.map_err(|problem| problem.rule())
    }

    #[tokio::test]
    async fn a_body_is_read_within_its_limits() {
        assert_eq!(
            outcome(3, Poll::Ready(None)).await,
            Ok(Bytes::from_static(b"xxx"))
        );
        assert_eq!(outcome(4, Poll::Ready(None)).await, Err("too-long"));
        assert_eq!(outcome(1, Poll::Pending).await, Err("slow-body"));
        let reset = Poll::Ready(Some(std::io::ErrorKind::ConnectionReset));
        assert_eq!(outcome(1, reset).await, Err("broken-body"));
        let told = read(Body::from(vec![0; 4]), 3)
            .await
            .map_err(|problem| problem.rule());
        assert_eq!(told, Err("too-long"));
    }
}
