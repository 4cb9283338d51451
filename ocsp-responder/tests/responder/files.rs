//! CRLs and CA certificates: as published, with the headers that caches and resumed downloads need.

use super::site::{EC, RSA, Running, Site, get, send, until};

/// A site with a CRL of these serials, and its responder.
fn running(revoked: &[u64]) -> (Site, Running, Vec<u8>) {
    let mut site = Site::new("log.example/files", &[("device-1", RSA), ("root", EC)]);
    let crl = site.crl("device-1", 7, revoked);
    site.put("crl/device-1.crl", &crl);
    for (number, partition, revoked) in [(8, 1, &[][..]), (9, 2, &[1][..])] {
        let made = site.partition_crl("device-1", number, partition, revoked);
        site.put(&format!("crl/device-1/{partition}.crl"), &made);
    }
    let of_root = site.crl("root", 3, &[]);
    site.put("crl/root.crl", &of_root);
    let running = Running::start(&site.config("", "", ""));
    until("the last CRL", || {
        get(running.address, "/crl/root.crl").body == of_root
    });
    (site, running, crl)
}

#[test]
fn files_are_served_as_published() {
    let (site, running, crl) = running(&[1, 2, 3]);
    let answer = get(running.address, "/crl/device-1.crl");
    assert_eq!((answer.status, &answer.body), (200, &crl));
    assert_eq!(answer.header("content-type"), Some("application/pkix-crl"));
    let length = crl.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    assert_eq!(answer.header("cache-control"), Some("public, no-cache"));
    assert!(answer.header("last-modified").unwrap().ends_with(" GMT"));
    for path in [
        "crl/device-1/1.crl",
        "crl/device-1/2.crl",
        "crl/root.crl",
        "ca/device-1.cer",
        "ca/root.cer",
    ] {
        let published = std::fs::read(site.public().join(path)).unwrap();
        assert_eq!(
            get(running.address, &format!("/{path}")).body,
            published,
            "{path}"
        );
        assert_eq!(
            get(running.address, &format!("/a/{path}")).body,
            published,
            "{path}"
        );
    }
    let answer = get(running.address, "/ca/device-1.cer");
    assert_eq!(answer.header("content-type"), Some("application/pkix-cert"));
    for path in [
        "/log/checkpoint",
        "/crl/",
        "/crl/../log/checkpoint",
        "/crl/device-1/3.crl",
        "/a/log/checkpoint",
        "/",
        "/responders/ocsp-1/device-1.cer",
        "/ca/%2e%2e/x",
    ] {
        assert_eq!(get(running.address, path).status, 404, "{path}");
    }
}

#[test]
fn conditions_and_parts_are_understood() {
    // Above and below the length that is kept in memory.
    let many: Vec<u64> = (0..3000).collect();
    for revoked in [&many[..], &many[..5]] {
        let (_site, running, crl) = running(revoked);
        let path = "/crl/device-1.crl";
        let ask = |headers: &str| send(running.address, "GET", path, headers, b"");
        let whole = ask("");
        assert_eq!(whole.body, crl);
        let etag = whole.header("etag").unwrap();
        let unchanged = ask(&format!("if-none-match: {etag}\r\n"));
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!(unchanged.header("etag"), Some(etag));
        let modified = whole.header("last-modified").unwrap();
        assert_eq!(
            ask(&format!("if-modified-since: {modified}\r\n")).status,
            304
        );
        assert_eq!(ask("if-none-match: \"other\"\r\n").body, crl);
        let part = ask("range: bytes=10-99\r\n");
        assert_eq!((part.status, &part.body[..]), (206, &crl[10..100]));
        let expected = format!("bytes 10-99/{}", crl.len());
        assert_eq!(part.header("content-range"), Some(expected.as_str()));
        let rest = ask(&format!("range: bytes=100-\r\nif-range: {etag}\r\n"));
        assert_eq!((rest.status, &rest.body[..]), (206, &crl[100..]));
        assert_eq!(
            ask("range: bytes=100-\r\nif-range: \"other\"\r\n").body,
            crl
        );
        let beyond = ask(&format!("range: bytes={}-\r\n", crl.len()));
        assert_eq!((beyond.status, beyond.body.len()), (416, 0));
        let head = send(running.address, "HEAD", path, "", b"");
        let length = crl.len().to_string();
        assert_eq!(
            (head.status, head.body.len(), head.header("content-length")),
            (200, 0, Some(length.as_str()))
        );
    }
}

#[test]
fn a_new_crl_is_served() {
    let (mut site, running, _) = running(&[1]);
    let newer = site.crl("device-1", 10, &[1, 2]);
    site.put("crl/device-1.crl", &newer);
    until("the new CRL", || {
        get(running.address, "/crl/device-1.crl").body == newer
    });
    assert_eq!(
        running.metric("hallmark_ocsp_crl_entries{log=\"a\",path=\"crl/device-1.crl\"}"),
        Some(2.0)
    );
    let left = running
        .metric("hallmark_ocsp_crl_left_seconds{log=\"a\",path=\"crl/device-1.crl\"}")
        .unwrap();
    assert!((600_000.0..604_801.0).contains(&left), "{left}");
}
