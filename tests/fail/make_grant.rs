//! Only the registry entitles to a unit of an order.
//! expect: error[E0423]: cannot initialize a tuple struct which contains private fields

use hallmark::ra::Grant;

pub fn entitle() -> Grant {
    Grant(unreachable!())
}
