//! Requests that come, good and bad.
use super::*;
