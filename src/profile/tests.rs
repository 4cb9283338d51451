//! Certificates by every built-in profile, and every way to be refused.
