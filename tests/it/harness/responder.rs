//! A `hallmark-ocsp` beside an appliance.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Appliance;
use super::program::run;
use super::site::{Site, free_port};
use crate::source::root;

/// A `hallmark-ocsp` beside an appliance; it ends with the test.
pub struct Responder {
    process: Option<Child>,
    /// Its configuration.
    pub config: PathBuf,
    /// Of OCSP and files, on loopback.
    pub port: u16,
    /// Of health and metrics.
    pub ops_port: u16,
}

impl Responder {
    /// Its configuration beside a site's; not started.
    pub fn beside(site: &Site) -> Self {
        let (port, ops_port) = (free_port(), free_port());
        let text = std::fs::read_to_string(root().join("softhsm/ocsp.toml.in")).unwrap();
        let text = text
            .replace("@OCSP_PORT@", &port.to_string())
            .replace("@OCSP_OPS_PORT@", &ops_port.to_string())
            .replace("@LOG_KEY@", "state/log.vkey");
        let config = site.path().join("ocsp.toml");
        std::fs::write(&config, text).unwrap();
        Self {
            process: None,
            config,
            port,
            ops_port,
        }
    }

    /// One whose configuration is there already; not started.
    pub const fn configured(config: PathBuf, port: u16, ops_port: u16) -> Self {
        Self {
            process: None,
            config,
            port,
            ops_port,
        }
    }

    /// A command of it.
    pub fn command(&self, site: &Site) -> Command {
        let mut command = site.command("hallmark-ocsp");
        command.arg("--config").arg(&self.config);
        command
    }

    /// Writes its public key, as its operator would, to a file in the site's directory; the file's name.
    pub fn key(&self, site: &Site) -> &'static str {
        let printed = run(self.command(site).arg("key")).stdout;
        std::fs::write(site.path().join("ocsp-1.pem"), printed).unwrap();
        "ocsp-1.pem"
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self, appliance: &mut Appliance) {
        let log = std::fs::File::create(self.config.with_extension("log")).unwrap();
        let mut command = self.command(&appliance.site);
        command.arg("run").stdin(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        let url = format!("http://127.0.0.1:{}/readyz", self.ops_port);
        appliance.wait("ready to answer OCSP", |_| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--max-time", "5", "--output"]);
            curl.args(["/dev/null", &url]).status().unwrap().success()
        });
    }

    /// The URL of its OCSP.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/ocsp", self.port)
    }

    /// Has an appliance approve its key as `ocsp-1`, and starts it when `device-1` has certified it.
    pub fn approved_and_started(&mut self, appliance: &mut Appliance) {
        let key = self.key(&appliance.site);
        appliance.command(&["responder", "approve", "ocsp-1", "--key", key]);
        let file = appliance
            .site
            .path()
            .join("public/responders/ocsp-1/device-1.cer");
        appliance.wait("certified", |_| file.exists());
        self.start(appliance);
    }

    /// What OpenSSL makes of its answer about a certificate in the site's directory; the answer must verify.
    pub fn status(&self, directory: &Path, certificate: &str) -> String {
        let url = self.url();
        let mut ask = Command::new("openssl");
        ask.current_dir(directory).args(["ocsp", "-url", &url]);
        ask.args(["-issuer", "device-1.pem", "-CAfile", "chain.pem"]);
        let output = run(ask.args(["-cert", certificate]));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("Response verify OK"), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Has a site's issuers certify responders for a minute instead of three days, so that a test sees renewals.
pub fn certify_responders_for_a_minute(site: &Site) {
    let profile = site.path().join("profiles/ocsp-signing.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    assert_eq!(text.matches("for = \"72h\"").count(), 1);
    std::fs::write(&profile, text.replace("for = \"72h\"", "for = \"1m\"")).unwrap();
}
