//! Certificates by every built-in profile, and every way to be refused.

mod certificates;
mod files;
mod refusals;
mod software_ca;
