//! A certificate is made by checking a signature, not by naming its bytes.
//! expect: error[E0451]: field

use hallmark::signing_log::Certificate;

pub fn forge(like: Certificate, der: Vec<u8>) -> Certificate {
    Certificate { der, ..like }
}
