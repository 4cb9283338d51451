//! The deadline of a connection's next head, which costs next to nothing while requests come.
//!
//! Owns one alarm of the runtime for each connection. Promises that a deadline is kept, and that the alarm is set anew only
//! when it went off: hyper asks for a deadline before each head and drops it after, and to enter and leave the runtime's
//! one timer wheel for each request costs more than to look the answer up. Failure story: an alarm that goes off early
//! wakes the connection once, for nothing.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The deadlines of one connection, all of them polled by its task.
#[derive(Clone, Debug)]
pub struct Deadlines(Arc<Mutex<Pin<Box<tokio::time::Sleep>>>>);

impl Deadlines {
    /// Within a runtime with time; the first deadline is expected after so long.
    pub fn new(first: Duration) -> Self {
        Self(Arc::new(Mutex::new(Box::pin(tokio::time::sleep(first)))))
    }
}

impl Timer for Deadlines {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline {
            at: deadline.into(),
            alarm: self.clone(),
        })
    }
}

/// One deadline.
#[derive(Debug)]
struct Deadline {
    at: tokio::time::Instant,
    alarm: Deadlines,
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = &self.alarm.0;
        let mut alarm = alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if alarm.deadline() > self.at {
            alarm.as_mut().reset(self.at);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            // Set for an earlier deadline, which was met: the next one comes at the end of this one.
            if alarm.deadline() >= self.at {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(self.at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const STEP: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn each_deadline_is_its_own() {
        let deadlines = Deadlines::new(4 * STEP);
        let begun = Instant::now();
        let until = |steps: u32| deadlines.sleep_until((begun + steps * STEP).into_std());
        // Met: dropped before its time, when the alarm is set already.
        let first = until(4);
        assert!(timeout(STEP, first).await.is_err());
        until(6).await;
        assert!(begun.elapsed() >= 6 * STEP, "not when the first was due");
        let before = begun.elapsed();
        until(5).await;
        assert!(begun.elapsed() < before + 100 * STEP, "over already");
        until(9).await;
        assert!(begun.elapsed() >= 9 * STEP);
    }

    #[tokio::test]
    async fn an_earlier_deadline_is_kept() {
        let deadlines = Deadlines::new(1000 * STEP);
        let sleeping = deadlines.sleep(STEP);
        assert!(timeout(500 * STEP, sleeping).await.is_ok());
    }
}
