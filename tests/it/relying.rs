//! Real relying parties, asking a real `hallmark-ocsp` beside a real appliance: they agree with the appliance on every
//! status, and refuse by when the answer to a revocation says.

mod agreement;
mod effect;
mod gnutls;
mod java;
mod openssl;
mod place;
mod servers;
mod verdict;
