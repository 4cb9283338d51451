//! The daemon's listeners: the line API, the operations page, the admin socket.
//!
//! Promises that all of them answer from here on, and that stopping lets requests in work finish. Failure
//! story: an address that is taken stops the start, before anything is issued.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::DaemonError;
use crate::admin::{self, Admin};
use crate::config::Config;
use crate::hsm::Hsm;
use crate::http::listener::Stopping;
use crate::http::ops::{self, Boards, Ops};
use crate::http::tls::{ServerCertificate, server_config};
use crate::http::{Api, serve_api};
use crate::issuance::Issuance;
use crate::revocation::Revocations;
use crate::signing_log::{Publication, SigningLog};
use crate::time::Clock;

/// The running listeners.
pub(super) struct Listeners {
    /// The API's certificate, for renewal.
    pub(super) certificate: ServerCertificate,
    stop: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Listeners {
    /// Binds everything and starts to answer.
    pub(super) async fn start(
        config: &Config,
        issuance: &Issuance,
        log: &SigningLog,
        hsm: &Hsm,
        clock: &Clock,
        boards: &Boards,
    ) -> Result<Self, DaemonError> {
        let certificate =
            ServerCertificate::load(&config.server_chain_file(), &config.server_key_file())?;
        let tls = server_config(config.listen.minimum_tls, certificate.clone())?;
        let publication = Publication {
            published: config.published.clone(),
            details: config.details.clone(),
        };
        let api = Api::new(issuance.clone(), log.clone(), clock.clone(), publication);
        let (stop, stopping) = Stopping::new();
        let lines = tcp(config.listen.api).await?;
        let operations = tcp(config.listen.ops).await?;
        let socket = admin::bind(&config.listen.admin_socket)?;
        let keyed = config.issuers.iter().filter(|issuer| issuer.key.is_some());
        let revocations = Revocations::new(
            log.clone(),
            clock.clone(),
            config.revocation,
            keyed.map(|issuer| issuer.name.clone()).collect(),
            (issuance.clone(), boards.crls.clone()),
        );
        let admin = Admin::new(
            issuance.clone(),
            log.clone(),
            revocations,
            hsm.clone(),
            clock.clone(),
            boards.clone(),
            config.operators.clone(),
        );
        let tasks = vec![
            tokio::spawn(serve_api(lines, tls, api.clone(), stopping.clone())),
            tokio::spawn(ops::serve(
                operations,
                Ops::new(api, hsm.clone(), boards.clone()),
                stopping.clone(),
            )),
            tokio::spawn(admin::serve(socket, admin, stopping)),
        ];
        tracing::info!(api = %config.listen.api, ops = %config.listen.ops, "listening");
        Ok(Self {
            certificate,
            stop,
            tasks,
        })
    }

    /// Accepts nothing more and waits for what is in work.
    pub(super) async fn drain(self) {
        drop(self.stop);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener ended badly");
            }
        }
    }
}

/// Binds an address.
async fn tcp(address: std::net::SocketAddr) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| DaemonError::Listen { address, source })
}
