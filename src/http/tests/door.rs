//! Connections at the door and after it: who stays, who goes, and for whom.

use super::*;

/// The change that lets a line ask or not.
fn set(line: &str, state: LineState) -> Change {
    let line = line.parse().unwrap();
    Change::LineSet { line, state }
}

/// Whether work goes on waiting when it is looked at.
async fn waits(work: &mut (impl Future + Unpin)) -> bool {
    let mut work = std::pin::pin!(work);
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(work.as_mut().poll(cx)));
    polled.await.is_pending()
}

#[tokio::test]
async fn a_line_that_may_not_ask_any_more_is_told_of_as_refused() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let peer = Peer {
        certificate: Some(DetailHash::of(&station.certificate)),
    };
    let mut refused = Box::pin(appliance.api.refused_for(peer, Duration::ZERO));
    assert!(waits(&mut refused).await, "it may ask");
    appliance.change([set("one", LineState::Enabled)]).await;
    assert!(waits(&mut refused).await, "and may still");
    appliance.change([set("one", LineState::Disabled)]).await;
    timeout(Duration::from_secs(10), refused).await.unwrap();
}

#[tokio::test]
async fn a_line_that_is_enabled_again_in_time_keeps_its_connections() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let peer = Peer {
        certificate: Some(DetailHash::of(&station.certificate)),
    };
    appliance.change([set("one", LineState::Disabled)]).await;
    let long = Duration::from_secs(3600);
    let mut refused = Box::pin(appliance.api.refused_for(peer, long));
    for state in [LineState::Enabled, LineState::Disabled, LineState::Enabled] {
        assert!(waits(&mut refused).await);
        appliance.change([set("one", state)]).await;
    }
}
