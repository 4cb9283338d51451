//! A permission to sign cannot be copied.
//! expect: error[E0599]: no method named `clone` found

use hallmark::signing_log::Intent;

pub fn copy(intent: Intent) -> (Intent, Intent) {
    (intent.clone(), intent)
}
