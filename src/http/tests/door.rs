//! Connections at the door and after it: who stays, who goes, and for whom.

use super::*;

/// The change that lets a line ask or not.
fn set(line: &str, state: PartyState) -> Change {
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
    appliance.change([set("one", PartyState::Enabled)]).await;
    assert!(waits(&mut refused).await, "and may still");
    appliance.change([set("one", PartyState::Disabled)]).await;
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
    appliance.change([set("one", PartyState::Disabled)]).await;
    let long = Duration::from_secs(3600);
    let mut refused = Box::pin(appliance.api.refused_for(peer, long));
    for state in [
        PartyState::Enabled,
        PartyState::Disabled,
        PartyState::Enabled,
    ] {
        assert!(waits(&mut refused).await);
        appliance.change([set("one", state)]).await;
    }
}

#[tokio::test]
async fn changes_of_others_do_not_lengthen_the_time_of_who_may_not_ask_any_more() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (station, other) = (Station::new(), Station::new());
    appliance.line("one", &station).await;
    appliance.line("two", &other).await;
    let peer = Peer {
        certificate: Some(DetailHash::of(&station.certificate)),
    };
    appliance.change([set("one", PartyState::Disabled)]).await;
    let refused = appliance.api.refused_for(peer, Duration::from_millis(500));
    let changing = async {
        loop {
            appliance.change([set("two", PartyState::Enabled)]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = async {
        tokio::select! {
            () = refused => {}
            () = changing => {}
        }
    };
    timeout(Duration::from_secs(10), ended).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_its_line_may_not_ask_any_more() {
    let farewell = Duration::from_millis(300);
    let appliance = Appliance::start_with(MinimumTls::V1_3, farewell).await;
    let names = ["disabled", "expired"];
    let mut clients = Vec::new();
    for name in names {
        let station = Station::new();
        appliance.line(name, &station).await;
        let mut client = appliance.connect(Some(&station)).await;
        let reply = client.send("GET", "/openapi.json", "").await;
        assert_eq!(reply.status, 200);
        clients.push(client);
    }
    let closed = || [&clients[0], &clients[1]].map(|client| client.sender.is_closed());
    tokio::time::sleep(2 * farewell).await;
    assert_eq!(closed(), [false, false], "{names:?} may ask");
    appliance
        .change([set("disabled", PartyState::Disabled)])
        .await;
    until(|| closed() == [true, false]).await;
    // A moment before the end, so that no change is needed to look again.
    let end = UnixMillis::from_seconds(NOW + 1000);
    appliance.clock.set(end);
    appliance
        .change([set("expired", PartyState::Enabled)])
        .await;
    tokio::time::sleep(2 * farewell).await;
    assert_eq!(closed(), [true, false], "it is valid to its last moment");
    appliance
        .clock
        .set(end.saturating_add(Duration::from_secs(1)));
    until(|| closed() == [true, true]).await;
}

/// Places of so many other connections of an address.
fn silent(appliance: &Appliance, address: [u8; 4], count: usize) -> Vec<(Guest, MustGo)> {
    let origin = Origin::of(address.into(), appliance.address.ip());
    let door = &appliance.api.inner.door;
    let guests: Vec<_> = (0..count).filter_map(|_| door.knock(origin)).collect();
    assert_eq!(guests.len(), count);
    guests
}

#[tokio::test]
async fn a_door_full_of_silence_lets_a_line_in() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let _full = [2, 3].map(|last| silent(&appliance, [127, 0, 0, last], limits::DOOR_MAX / 2));
    let mut client = appliance.connect(Some(&station)).await;
    let reply = client.send("POST", SINGLE, csr("dev-1")).await;
    assert_eq!(reply.problem(), "no-token");
}

#[tokio::test]
async fn a_silent_connection_is_closed_when_its_place_is_another_s() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut first = socket.connect(appliance.address).await.unwrap();
    while appliance.api.inner.door.taken() == 0 {
        tokio::task::yield_now().await;
    }
    let most = limits::DOOR_PER_ORIGIN_MAX;
    let _more = silent(&appliance, [127, 0, 0, 2], most - 1);
    let _others = silent(&appliance, [127, 0, 0, 3], limits::DOOR_MAX - most);
    let _next = silent(&appliance, [127, 0, 0, 4], 1);
    let mut read = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut first, &mut read);
    let closed = timeout(Duration::from_secs(10), closed).await;
    assert!(closed.is_ok() && read.is_empty());
}

#[tokio::test]
async fn a_byte_does_not_keep_a_place_from_the_next_of_the_same_address() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let mut slow = TcpStream::connect(appliance.address).await.unwrap();
    // The first byte of a handshake, and no more.
    let spoken = tokio::io::AsyncWriteExt::write_all(&mut slow, &[22]);
    spoken.await.unwrap();
    until(|| appliance.api.inner.door.taken() == 1).await;
    let _full = silent(&appliance, [127, 0, 0, 1], limits::DOOR_PER_ORIGIN_MAX - 1);
    tokio::time::sleep(limits::DOOR_PATIENCE).await;
    let mut client = appliance.connect(Some(&station)).await;
    let reply = client.send("POST", SINGLE, csr("dev-1")).await;
    assert_eq!(reply.problem(), "no-token");
    let mut read = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut slow, &mut read);
    let closed = timeout(Duration::from_secs(5), closed).await;
    assert!(
        closed.is_ok() && read.is_empty(),
        "long before its deadline"
    );
}

#[tokio::test]
async fn a_disabled_line_s_addresses_weigh_as_a_stranger_s() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let known = || appliance.api.inner.door.parties();
    let _client = appliance.connect(Some(&station)).await;
    until(|| known() == 1).await;
    appliance.change([set("one", PartyState::Disabled)]).await;
    until(|| known() == 0).await;
}

#[tokio::test]
async fn a_stranger_is_sent_away_after_one_answer() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let mut client = appliance.connect(None).await;
    let reply = client.send("GET", "/openapi.json", "").await;
    assert_eq!(reply.headers["connection"], "close");
    let gone = timeout(Duration::from_secs(10), appliance.api.inner.door.drained());
    assert!(gone.await.is_ok(), "its place comes back");
}
