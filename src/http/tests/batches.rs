//! What a batch leaves behind.

use tokio::sync::mpsc;

use super::*;
use crate::http::batch::Batch;
use crate::http::orders::work_off;

#[tokio::test]
async fn a_batch_that_is_left_keeps_its_place_until_its_items_have_ended() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let api = &appliance.api;
    let peer = Peer {
        certificate: Some(DetailHash::of(&station.certificate)),
    };
    let place = api.batch(&api.line(peer).unwrap()).unwrap();
    let batch = Batch::split(&Bytes::from(csr("dev-1"))).unwrap();
    let (to, answers) = mpsc::channel(1);
    {
        let work = work_off(api.clone(), peer, "one".into(), batch, to, place);
        let mut work = Box::pin(work);
        // One step: the item is a task of its own now, which this thread has not run yet.
        std::future::poll_fn(|cx| {
            assert!(work.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    drop(answers);
    assert_eq!(api.inner.batches.taken(), 1, "the item is in work");
    let ended = timeout(Duration::from_secs(10), api.inner.batches.drained());
    assert!(ended.await.is_ok(), "and then the place comes back");
}
