//! Every type of problem: its stable name, status, title, and when a retry helps.

use axum::http::StatusCode;

/// A type of problem. Its name is in clients' code, so it never changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The name after `urn:hallmark:problem:`.
    pub slug: &'static str,
    /// The status.
    pub status: StatusCode,
    /// The same words for every problem of this type.
    pub title: &'static str,
    /// Seconds after which the same request may succeed.
    pub retry_after: Option<u32>,
}

impl Kind {
    /// The `type` member: a URN, since there is no page to fetch on a factory floor.
    pub(crate) fn urn(&self) -> String {
        format!("urn:hallmark:problem:{}", self.slug)
    }
}

/// Declares the types and the table of all of them.
macro_rules! kinds {
    ($($name:ident $slug:literal $status:ident $title:literal $($retry:literal)?;)*) => {
        $(
            #[doc = $title]
            pub(crate) const $name: Kind = Kind {
                slug: $slug,
                status: StatusCode::$status,
                title: $title,
                retry_after: kinds!(@retry $($retry)?),
            };
        )*
        /// All types, for the interface description and its test.
        #[cfg(test)]
        pub(crate) const ALL: &[&Kind] = &[$(&$name),*];
    };
    (@retry $seconds:literal) => { Some($seconds) };
    (@retry) => { None };
}

kinds! {
    // Who asks.
    NO_CERTIFICATE "no-certificate" UNAUTHORIZED "No client certificate";
    UNKNOWN_CERTIFICATE "unknown-certificate" FORBIDDEN "Unknown client certificate";
    CERTIFICATE_OUTSIDE_VALIDITY "certificate-outside-validity" FORBIDDEN "Client certificate expired or not yet valid";
    LINE_DISABLED "line-disabled" FORBIDDEN "Line disabled";
    READER_DISABLED "reader-disabled" FORBIDDEN "Reader disabled";
    WRONG_ROLE "wrong-role" FORBIDDEN "Client certificate of another role";
    UNKNOWN_OPERATOR "unknown-operator" FORBIDDEN "Unknown operator";
    // What for.
    NO_SUCH_ORDER "no-such-order" NOT_FOUND "No such order for this line";
    ORDER_CLOSED "order-closed" CONFLICT "Order closed";
    ORDER_OUTSIDE_DATES "order-outside-dates" CONFLICT "Order outside its dates";
    ORDER_USED_UP "order-used-up" CONFLICT "Order used up";
    DEVICE_ID_PATTERN "device-id-pattern" UNPROCESSABLE_ENTITY "Device id breaks the order's pattern";
    DEVICE_ID_FORM "device-id-form" UNPROCESSABLE_ENTITY "Not a device id";
    TOO_MANY_CERTIFICATES "too-many-certificates" CONFLICT "Line has too many certificates";
    // The request.
    CSR_REFUSED "csr-refused" BAD_REQUEST "Certificate request refused";
    FIELD_REFUSED "field-refused" UNPROCESSABLE_ENTITY "Field of the certificate request refused";
    NO_DEVICE_ID "no-device-id" UNPROCESSABLE_ENTITY "No device id";
    DEVICE_ID_DIFFERS "device-id-differs" UNPROCESSABLE_ENTITY "Two different device ids";
    DEVICE_ID_USED "device-id-used" CONFLICT "Device id has a certificate";
    KEY_USED "key-used" CONFLICT "Public key used before";
    REVOKED_BEFORE "revoked-before" CONFLICT "Certificate of this request is revoked";
    HELD_BEFORE "held-before" CONFLICT "Certificate of this request is on hold";
    ISSUER_REVOKED "issuer-revoked" CONFLICT "Issuer revoked";
    BATCH_FORMAT "batch-format" BAD_REQUEST "Not a batch";
    BATCH_LINE "batch-line" BAD_REQUEST "Not a line of a batch";
    BATCH_TOO_MANY "batch-too-many" PAYLOAD_TOO_LARGE "Too many requests in a batch";
    TOO_LONG "too-long" PAYLOAD_TOO_LARGE "Body too long";
    SLOW_BODY "slow-body" REQUEST_TIMEOUT "Body too slow";
    BROKEN_BODY "broken-body" BAD_REQUEST "Body incomplete";
    BODY_REFUSED "body-refused" BAD_REQUEST "Body not understood";
    QUERY_REFUSED "query-refused" BAD_REQUEST "Query not understood";
    NOT_ACCEPTABLE "not-acceptable" NOT_ACCEPTABLE "No such format";
    NO_SUCH_PATH "no-such-path" NOT_FOUND "No such path";
    METHOD_NOT_ALLOWED "method-not-allowed" METHOD_NOT_ALLOWED "Method not allowed";
    // Operators' changes.
    EXISTS "exists" CONFLICT "Exists already";
    MISSING "missing" NOT_FOUND "Does not exist";
    VALUE_REFUSED "value-refused" UNPROCESSABLE_ENTITY "Value refused";
    NOT_ON_HOLD "not-on-hold" CONFLICT "Not on hold";
    AUTHORITY "authority" CONFLICT "Not revoked here";
    // Not now.
    BUSY "busy" SERVICE_UNAVAILABLE "Busy" 1;
    LATE "late" SERVICE_UNAVAILABLE "Not ready yet" 1;
    NO_TOKEN "no-token" SERVICE_UNAVAILABLE "No token" 5;
    TOKEN_FAILED "token-failed" SERVICE_UNAVAILABLE "Token failed" 5;
    TOKEN_UNFIT "token-unfit" SERVICE_UNAVAILABLE "Token needs its operator" 60;
    RECOVERING "recovering" SERVICE_UNAVAILABLE "Starting" 5;
    STOPPING "stopping" SERVICE_UNAVAILABLE "Stopping" 10;
    HALTED "halted" SERVICE_UNAVAILABLE "Signing log halted" 10;
    CLOCK_WRONG "clock-wrong" SERVICE_UNAVAILABLE "Clock wrong" 60;
    // Ours.
    INTERNAL "internal" INTERNAL_SERVER_ERROR "Internal failure";
}
