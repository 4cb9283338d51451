//! The way to one appliance's public files, shared by those that follow its log and those that mirror its files.
//!
//! Owns the source's making anew when the files of its certificate changed on disk (they are renewed while the
//! responder runs). Promises that a set of files that cannot be read leaves the source as it was. Never waits.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::config::SourceConfig;
use crate::UnixMillis;
use crate::view::{Https, HttpsRefused, Source};

/// When the files of a source were changed last.
type Changes = Vec<Option<SystemTime>>;

/// A source.
#[derive(Debug)]
pub struct SharedSource {
    config: SourceConfig,
    current: Mutex<(Arc<Source>, Changes)>,
}

/// When the files that secure the source were changed.
fn changes(config: &SourceConfig) -> Changes {
    let SourceConfig::Https { files, .. } = config else {
        return Vec::new();
    };
    let changed = |path: &PathBuf| {
        std::fs::metadata(path)
            .and_then(|data| data.modified())
            .ok()
    };
    [&files.ca, &files.certificate, &files.key]
        .map(changed)
        .to_vec()
}

/// Makes the source.
fn make(config: &SourceConfig) -> Result<Arc<Source>, HttpsRefused> {
    Ok(Arc::new(match config {
        SourceConfig::Directory(path) => Source::directory(path.clone()),
        SourceConfig::Https { url, files } => Source::Https(Box::new(Https::new(url, files)?)),
    }))
}

impl SharedSource {
    /// Opens a source; nothing is asked of it yet.
    pub fn open(config: &SourceConfig) -> Result<Self, HttpsRefused> {
        let changed = changes(config);
        Ok(Self {
            config: config.clone(),
            current: Mutex::new((make(config)?, changed)),
        })
    }

    /// The last second of the validity of the client certificate that is used; none where there is none.
    pub fn certificate_until(&self) -> Option<UnixMillis> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current.0 {
            Source::Https(https) => https.certificate_until(),
            Source::Directory(_) => None,
        }
    }

    /// The source as it is now; made anew when its files changed.
    pub fn get(&self) -> Arc<Source> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changes(&self.config);
        if changed != current.1 {
            match make(&self.config) {
                Ok(source) => {
                    tracing::info!("the files of the source changed and were read anew");
                    current.0 = source;
                }
                // Half of them is written, most likely: the old ones go on, and the next change is looked at.
                Err(error) => tracing::warn!(
                    error = crate::chain(&error),
                    "the files of the source changed and cannot be used"
                ),
            }
            current.1 = changed;
        }
        Arc::clone(&current.0)
    }
}
