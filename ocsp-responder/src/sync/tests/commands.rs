//! Brokers that are told by commands and signals, by stand-ins that note what they were asked.

use super::*;

#[tokio::test]
async fn a_command_that_hangs_is_killed_and_its_children_with_it() {
    let (ca, clock) = (Ca::new(), clock());
    ca.serve(&ca.crl(&list(10, 0, &[])));
    let hook = ca.hook("{ sleep 77 & echo $! > child; wait; }");
    let table = format!("{hook}\ncommand_deadline = \"1s\"");
    let mut syncer = ca
        .open_with(&table, &[("device-1", "[\"source\"]")], &clock)
        .unwrap();
    let status = syncer.once().await;
    assert!(
        status.text().contains("did not end within 1 s"),
        "{}",
        status.text()
    );
    let child = String::from_utf8(ca.openssl.read("child")).unwrap();
    let line = || std::fs::read(format!("/proc/{}/cmdline", child.trim())).unwrap_or_default();
    while line().starts_with(b"sleep") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn only_mosquitto_gets_a_signal() {
    let (ca, clock) = (Ca::new(), clock());
    ca.serve(&ca.crl(&list(10, 0, &[])));
    let table = "[mosquitto]\ncrl_file = \"target.pem\"\npid_file = \"pid\"";
    let crls = [("device-1", "[\"source\"]")];
    let mut sleeper = std::process::Command::new("sleep")
        .arg("77")
        .spawn()
        .unwrap();
    let own = sleeper.id().to_string();
    for (pid, expected) in [
        ("", "does not name a process"),
        ("0", "does not name a process"),
        ("-1", "does not name a process"),
        ("1", "does not name a process"),
        ("mosquitto", "does not name a process"),
        (own.as_str(), "\"sleep\" and not mosquitto"),
    ] {
        ca.openssl.write("pid", pid.as_bytes());
        let mut syncer = ca.open_with(table, &crls, &clock).unwrap();
        let told = syncer.once().await.text();
        assert!(told.contains(expected), "{pid:?}: {told}");
    }
    assert!(
        sleeper.try_wait().unwrap().is_none(),
        "it was sent a signal"
    );
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    // SIGHUP ends one that has no handler yet, as Mosquitto has none in the first moment of its life.
    std::fs::copy("/bin/sleep", ca.path("mosquitto")).unwrap();
    let mut starting = std::process::Command::new(ca.path("mosquitto"))
        .arg("77")
        .spawn()
        .unwrap();
    ca.openssl
        .write("pid", starting.id().to_string().as_bytes());
    let mut syncer = ca.open_with(table, &crls, &clock).unwrap();
    let told = syncer.once().await.text();
    assert!(told.contains("does not catch SIGHUP yet"), "{told}");
    assert!(
        starting.try_wait().unwrap().is_none(),
        "it was sent a signal"
    );
    starting.kill().unwrap();
    starting.wait().unwrap();
}

#[tokio::test]
async fn all_sessions_end_where_rabbitmq_cannot_tell_whose_they_are() {
    let (ca, clock) = (Ca::new(), clock());
    std::fs::create_dir(ca.path("crls")).unwrap();
    // Notes its first argument, and fails while a file of that name is there.
    let script = format!(
        "cd {} && echo $1 >> asked; ! test -e $1",
        ca.path("").display()
    );
    let table = format!(
        "[rabbitmq]\ncrl_dir = \"crls\"\nend_sessions = true\nrabbitmqctl = [\"sh\", \"-c\", {script:?}, \"ctl\"]"
    );
    let crls = [("device-1", "[\"source\"]")];
    let mut syncer = ca.open_with(&table, &crls, &clock).unwrap();
    let asked = || std::fs::read_to_string(ca.path("asked")).unwrap_or_default();
    // Nobody is revoked: nobody is asked.
    ca.serve(&ca.crl(&list(10, 0, &[])));
    assert_eq!(
        (syncer.once().await.exit_code(), asked()),
        (0, String::new())
    );
    ca.serve(&ca.crl(&list(11, 0, &[1])));
    assert_eq!(
        (syncer.once().await.exit_code(), asked()),
        (0, "eval\n".to_owned())
    );
    ca.openssl.write("eval", b"");
    ca.serve(&ca.crl(&list(12, 0, &[1, 2])));
    let all = "eval\neval\nclose_all_connections\n".to_owned();
    assert_eq!((syncer.once().await.exit_code(), asked()), (0, all));
    // Neither: it is owed.
    ca.openssl.write("close_all_connections", b"");
    ca.serve(&ca.crl(&list(13, 0, &[1, 2, 3])));
    assert_eq!(syncer.once().await.exit_code(), 1);
    let told = syncer.status().text();
    assert!(
        told.contains("are NOT ended") && !told.contains("could not be told"),
        "{told}"
    );
    std::fs::remove_file(ca.path("eval")).unwrap();
    clock.pass(Duration::from_secs(1));
    assert_eq!(syncer.once().await.exit_code(), 0);
    assert!(
        asked().ends_with("close_all_connections\neval\n"),
        "{}",
        asked()
    );
}

#[tokio::test]
async fn mosquitto_is_restarted_for_new_revocations_only() {
    let (ca, clock) = (Ca::new(), clock());
    let command = |name: &str| {
        let script = format!("cd {} && echo {name} >> asked", ca.path("").display());
        format!("[\"sh\", \"-c\", {script:?}]")
    };
    let table = format!(
        "[mosquitto]\ncrl_file = \"target.pem\"\nend_sessions = true\nreload_command = {}\nrestart_command = {}",
        command("reload"),
        command("restart")
    );
    let mut syncer = ca
        .open_with(&table, &[("device-1", "[\"source\"]")], &clock)
        .unwrap();
    let asked = || {
        std::fs::read_to_string(ca.path("asked"))
            .unwrap_or_default()
            .replace('\n', " ")
    };
    for (number, revoked, expected) in [
        (10, &[][..], "reload "),
        (11, &[1, 2], "reload reload restart "),
        (12, &[1, 2], "reload reload restart reload "),
        (13, &[2], "reload reload restart reload reload "),
        (
            14,
            &[2, 1],
            "reload reload restart reload reload reload restart ",
        ),
    ] {
        ca.serve(&ca.crl(&list(number, 0, revoked)));
        assert_eq!(syncer.once().await.exit_code(), 0);
        assert_eq!(asked(), expected);
    }
}

#[tokio::test]
async fn sessions_that_go_on_are_told_apart_from_a_broker_that_was_not_told() {
    for (reload, restart, said) in [
        ("true", "false", "are NOT ended"),
        ("false", "true", "could not be told"),
    ] {
        let (ca, clock) = (Ca::new(), clock());
        let table = format!(
            "[mosquitto]\ncrl_file = \"target.pem\"\nend_sessions = true\n\
             reload_command = [\"{reload}\"]\nrestart_command = [\"{restart}\"]"
        );
        let crls = [("device-1", "[\"source\"]")];
        let mut syncer = ca.open_with(&table, &crls, &clock).unwrap();
        ca.serve(&ca.crl(&list(10, 0, &[1])));
        assert_eq!(syncer.once().await.exit_code(), 1);
        let told = syncer.status().text();
        assert!(
            told.contains(said) && told.contains("false ended with"),
            "{told}"
        );
        // It is owed in both cases.
        clock.pass(Duration::from_secs(1));
        assert_eq!(syncer.once().await.exit_code(), 1);
    }
}
