//! The commands that ask the daemon: lines, orders, certificates, status.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, with_query};
use super::{
    CertCommand, CliError, LineCommand, ListArguments, OrderArguments, OrderCommand, Output,
    moment, print, print_json, show,
};
use crate::config::Config;
use crate::time::Clock;

/// The daemon that this configuration is of.
fn daemon(config: &Config) -> Client {
    Client::new(&config.listen.admin_socket)
}

/// Writes an answer: as it came, or as text.
fn tell(
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
                let _written = writeln!(std::io::stderr(), "{}", show::line_added(&added));
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
                format!(
                    "line {line} disabled (entry {})\n",
                    show::text(logged, "entry")
                )
            })
        }
        LineCommand::Enable { line } => {
            let logged = daemon
                .post(&format!("/v1/lines/{line}/enable"), None)
                .await?;
            tell(output, &logged, |logged| {
                format!(
                    "line {line} enabled (entry {})\n",
                    show::text(logged, "entry")
                )
            })
        }
    }
}

/// A certificate request's file, as text.
fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::Read {
        path: path.to_owned(),
        source,
    })
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
                format!(
                    "order {order} closed (entry {})\n",
                    show::text(logged, "entry")
                )
            })
        }
        OrderCommand::Reopen { order } => {
            let logged = daemon
                .post(&format!("/v1/orders/{order}/reopen"), None)
                .await?;
            tell(output, &logged, |logged| {
                format!(
                    "order {order} open again (entry {})\n",
                    show::text(logged, "entry")
                )
            })
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
            let found = daemon.get(&list_path(&arguments)).await?;
            tell(output, &found, show::certificates)
        }
        CertCommand::Show { serial } => {
            let found = daemon.get(&format!("/v1/certificates/{serial}")).await?;
            tell(output, &found, show::certificate)
        }
        CertCommand::Revoke { serial, reason } => {
            let path = format!("/v1/certificates/{serial}/revoke");
            let revoked = daemon
                .post(&path, Some(json!({ "reason": reason })))
                .await?;
            tell(output, &revoked, |revoked| show::revoked(&serial, revoked))
        }
    }
}

/// The path of a list of certificates.
fn list_path(arguments: &ListArguments) -> String {
    let parts = [
        ("order", arguments.order.as_ref().map(ToString::to_string)),
        ("device_id", arguments.device_id.clone()),
        ("issuer", arguments.issuer.as_ref().map(ToString::to_string)),
        ("after", arguments.after.map(|entry| entry.to_string())),
        ("limit", Some(arguments.limit.to_string())),
    ];
    with_query("/v1/certificates", &parts)
}

/// `hallmark status`.
pub(super) async fn status(config: &Config, output: Output) -> Result<(), CliError> {
    let status = daemon(config).get("/v1/status").await?;
    tell(output, &status, show::status)
}
