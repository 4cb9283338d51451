//! The commands that ask the daemon: lines, orders, certificates, status.

use std::io::Write as _;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};

use super::client::{Client, with_query};
use super::{
    AuditorCommand, CertCommand, CliError, LineCommand, ListArguments, OrderArguments,
    OrderCommand, Output, ResponderCommand, moment, print, print_json, revoke, show,
};
use crate::config::Config;
use crate::time::Clock;

/// The daemon that this configuration is of.
fn daemon(config: &Config) -> Client {
    Client::new(&config.listen.admin_socket)
}

/// Writes an answer: as it came, or as text.
pub(super) fn tell(
    output: Output,
    value: &Value,
    text: impl FnOnce(&Value) -> String,
) -> Result<(), CliError> {
    match output {
        Output::Json => print_json(value),
        Output::Text => print(&text(value)),
    }
}

/// `hallmark line …`.
pub(super) async fn line(
    command: LineCommand,
    config: &Config,
    output: Output,
) -> Result<(), CliError> {
    let daemon = daemon(config);
    match command {
        LineCommand::Add { line, csr } => {
            let body = json!({ "line": line, "csr": read(&csr)? });
            let added = daemon.post("/v1/lines", Some(body)).await?;
            if output == Output::Text {
                // Beside the chain, which is to go into a file.
                let told = show::certificate_given("line", &added);
                let _written = writeln!(std::io::stderr(), "{told}");
            }
            tell(output, &added, show::chain)
        }
        LineCommand::List => {
            let lines = daemon.get("/v1/lines").await?;
            tell(output, &lines, show::lines)
        }
        LineCommand::Disable { line } => {
            let logged = daemon
                .post(&format!("/v1/lines/{line}/disable"), None)
                .await?;
            tell(output, &logged, |logged| {
                show::set(&format!("line {line} disabled"), logged)
            })
        }
        LineCommand::Enable { line } => {
            let logged = daemon
                .post(&format!("/v1/lines/{line}/enable"), None)
                .await?;
            tell(output, &logged, |logged| {
                show::set(&format!("line {line} enabled"), logged)
            })
        }
    }
}

/// `hallmark responder …`.
pub(super) async fn responder(
    command: ResponderCommand,
    config: &Config,
    output: Output,
) -> Result<(), CliError> {
    let daemon = daemon(config);
    match command {
        ResponderCommand::Approve {
            responder,
            key,
            tls_csr,
            out,
        } => {
            let mut body = json!({ "responder": responder, "key": read(&key)? });
            if let Some(csr) = tls_csr {
                body["tls_csr"] = json!(read(&csr)?);
            }
            let approved = daemon.post("/v1/responders", Some(body)).await?;
            if let (Some(out), Some(client)) = (out, approved.get("client")) {
                // The certificate is there even where it cannot be written: another run gives another.
                let written = std::fs::write(&out, show::chain(client));
                written.map_err(|source| CliError::Out { path: out, source })?;
            }
            tell(output, &approved, show::responder_approved)
        }
        ResponderCommand::Revoke { responder } => {
            let path = format!("/v1/responders/{responder}/revoke");
            let revoked = daemon.post(&path, None).await?;
            tell(output, &revoked, show::responder_revoked)
        }
        ResponderCommand::List => {
            let responders = daemon.get("/v1/responders").await?;
            tell(output, &responders, show::responders)
        }
    }
}

/// `hallmark auditor …`.
pub(super) async fn auditor(
    command: AuditorCommand,
    config: &Config,
    output: Output,
) -> Result<(), CliError> {
    let daemon = daemon(config);
    match command {
        AuditorCommand::Add { auditor, csr } => {
            let body = json!({ "auditor": auditor, "csr": read(&csr)? });
            let added = daemon.post("/v1/auditors", Some(body)).await?;
            if output == Output::Text {
                // Beside the chain, which is to go into a file.
                let told = show::certificate_given("auditor", &added);
                let _written = writeln!(std::io::stderr(), "{told}");
            }
            tell(output, &added, show::chain)
        }
        AuditorCommand::List => {
            let auditors = daemon.get("/v1/auditors").await?;
            tell(output, &auditors, show::auditors)
        }
        AuditorCommand::Disable { auditor } => {
            let path = format!("/v1/auditors/{auditor}/disable");
            let logged = daemon.post(&path, None).await?;
            tell(output, &logged, |logged| {
                show::set(&format!("auditor {auditor} disabled"), logged)
            })
        }
        AuditorCommand::Enable { auditor } => {
            let path = format!("/v1/auditors/{auditor}/enable");
            let logged = daemon.post(&path, None).await?;
            tell(output, &logged, |logged| {
                show::set(&format!("auditor {auditor} enabled"), logged)
            })
        }
    }
}

/// The file of a certificate request or a public key, as text that JSON holds: DER becomes base64.
fn read(path: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::Read {
        path: path.to_owned(),
        source,
    };
    let octets = std::fs::read(path).map_err(failed)?;
    // A SEQUENCE; base64 of one begins with M, PEM with a hyphen.
    if octets.first() == Some(&0x30) {
        return Ok(Base64::encode_string(&octets));
    }
    String::from_utf8(octets)
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// `hallmark order …`.
pub(super) async fn order(
    command: OrderCommand,
    config: &Config,
    output: Output,
) -> Result<(), CliError> {
    let daemon = daemon(config);
    match command {
        OrderCommand::Open(arguments) => {
            let opened = daemon.post("/v1/orders", Some(terms(&arguments)?)).await?;
            tell(output, &opened, show::order)
        }
        OrderCommand::List => {
            let orders = daemon.get("/v1/orders").await?;
            tell(output, &orders, show::orders)
        }
        OrderCommand::Show { order } => {
            let order = daemon.get(&format!("/v1/orders/{order}")).await?;
            tell(output, &order, show::order)
        }
        OrderCommand::Close { order } => {
            let logged = daemon
                .post(&format!("/v1/orders/{order}/close"), None)
                .await?;
            tell(output, &logged, |logged| {
                show::set(&format!("order {order} closed"), logged)
            })
        }
        OrderCommand::Reopen { order } => {
            let logged = daemon
                .post(&format!("/v1/orders/{order}/reopen"), None)
                .await?;
            tell(output, &logged, |logged| {
                show::set(&format!("order {order} open again"), logged)
            })
        }
        OrderCommand::Approve { order, units } => {
            let body = units.map(|units| json!({ "units": units }));
            let approved = daemon
                .post(&format!("/v1/orders/{order}/approve"), body)
                .await?;
            tell(output, &approved, show::approved)
        }
    }
}

/// The terms of an order as the daemon wants them.
fn terms(arguments: &OrderArguments) -> Result<Value, CliError> {
    let now = Clock::system().now();
    Ok(json!({
        "order": arguments.order,
        "profile": arguments.profile,
        "issuer": arguments.issuer,
        "lines": arguments.lines,
        "quantity": arguments.quantity,
        "from": moment::read("--from", &arguments.from, now)?,
        "until": moment::read("--until", &arguments.until, now)?,
        "device_id_pattern": arguments.device_id,
    }))
}

/// `hallmark cert …`.
pub(super) async fn cert(
    command: CertCommand,
    config: &Config,
    output: Output,
) -> Result<(), CliError> {
    let daemon = daemon(config);
    match command {
        CertCommand::List(arguments) => {
            let path = list_path(&arguments, arguments.after, arguments.limit);
            let found = daemon.get(&path).await?;
            tell(output, &found, show::certificates)?;
            more(&arguments, &found, &daemon).await
        }
        CertCommand::Show { serial } => {
            let found = daemon.get(&format!("/v1/certificates/{serial}")).await?;
            tell(output, &found, show::certificate)
        }
        CertCommand::Revoke(arguments) => revoke::revoke(*arguments, &daemon, output).await,
        CertCommand::Release(arguments) => revoke::release(*arguments, &daemon, output).await,
    }
}

/// Says on standard error that a list was cut off, and how to go on.
async fn more(arguments: &ListArguments, found: &Value, daemon: &Client) -> Result<(), CliError> {
    let found = show::items(found);
    let full = usize::try_from(arguments.limit).is_ok_and(|limit| found.len() >= limit);
    let last = found.last().and_then(|last| last.get("intent")?.as_u64());
    let Some(last) = last.filter(|_| full) else {
        return Ok(());
    };
    let next = daemon.get(&list_path(arguments, Some(last), 1)).await?;
    if !show::items(&next).is_empty() {
        let _written = writeln!(std::io::stderr(), "… there are more: --after {last}");
    }
    Ok(())
}

/// The path of a list of certificates.
fn list_path(arguments: &ListArguments, after: Option<u64>, limit: u32) -> String {
    let parts = [
        ("order", arguments.order.as_ref().map(ToString::to_string)),
        ("device_id", arguments.device_id.clone()),
        ("issuer", arguments.issuer.as_ref().map(ToString::to_string)),
        ("after", after.map(|entry| entry.to_string())),
        ("limit", Some(limit.to_string())),
    ];
    with_query("/v1/certificates", &parts)
}

/// `hallmark status`.
pub(super) async fn status(config: &Config, output: Output) -> Result<(), CliError> {
    let status = daemon(config).get("/v1/status").await?;
    tell(output, &status, show::status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_der_is_sent_as_base64_and_text_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("csr");
        for (octets, sent) in [
            (&[0x30, 0x82, 0x01][..], Some("MIIB")),
            (b"-----BEGIN", Some("-----BEGIN")),
            (b"MIIB", Some("MIIB")),
            (&[0xff, 0xfe], None),
        ] {
            std::fs::write(&path, octets).unwrap();
            assert_eq!(read(&path).ok().as_deref(), sent);
        }
    }
}
