//! Only a profile builds what will be signed.
//! expect: error[E0451]: field

use hallmark::profile::Tbs;

pub fn forge(like: Tbs, der: Vec<u8>) -> Tbs {
    Tbs { der, ..like }
}
