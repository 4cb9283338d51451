//! The API as a client of its listener sees it, up to where issuing begins.
