//! Batches: many certificate requests in one body.
//!
//! Owns the two forms of a batch, NDJSON and concatenated PEM. Promises that each line or block is one item
//! with its own result, in order, that nothing is copied to find them, that finding them takes time in proportion
//! to the body and memory in proportion to [`BATCH_CSRS_MAX`], whatever the body holds, and that an item that was taken out
//! holds its own bytes alone, at most [`CSR_BYTES_MAX`] of a request. Never decodes a certificate
//! request: `csr` does. Failure story: a body that is neither form is refused whole; a line that is not
//! understood is refused alone.

use hyper::body::Bytes;
use serde::Deserialize;

use super::problem::{Problem, kind};
use crate::csr::CsrRefused;
use crate::limits::{BATCH_CSRS_MAX, CSR_BYTES_MAX};
use crate::ra::{Refused, is_device_id};

/// A line's own name for its request, in characters: it is given back, never kept.
const ID_CHARS_MAX: usize = 128;

/// How a block of PEM begins (RFC 7468, 2).
const BEGIN: &[u8] = b"-----BEGIN ";

/// How the line that ends a block begins.
const END: &[u8] = b"-----END ";

/// A body that was split into its items.
#[derive(Debug)]
pub(super) struct Batch {
    form: Form,
    items: std::vec::IntoIter<Bytes>,
}

/// How a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A JSON object a line.
    Ndjson,
    /// PEM blocks, one after the other.
    Pem,
}

/// One request of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// The line's own name for it.
    pub(super) id: Option<String>,
    /// The device id, where the request's subject does not say it.
    pub(super) device_id: Option<String>,
    /// The certificate request in any form that `csr` reads, or what is wrong with the line.
    pub(super) csr: Result<Bytes, Problem>,
}

/// A line of NDJSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    csr: String,
    device_id: Option<String>,
    id: Option<String>,
}

impl Batch {
    /// Finds the items of a body.
    ///
    /// # Errors
    /// [`Problem`]: neither form, or too many items.
    pub(super) fn split(body: &Bytes) -> Result<Self, Problem> {
        // One more than there may be is enough to refuse: a body can hold a million.
        let most = BATCH_CSRS_MAX + 1;
        let (form, items) = match body.iter().find(|c| !c.is_ascii_whitespace()) {
            Some(b'{') => (Form::Ndjson, lines(body).take(most).collect::<Vec<_>>()),
            Some(b'-') => (Form::Pem, blocks(body).take(most).collect()),
            _ => {
                let detail = "a batch is one JSON object a line ({\"csr\": \"…\"}), or PEM blocks one after the other";
                return Err(Problem::new(&kind::BATCH_FORMAT, detail));
            }
        };
        if items.len() > BATCH_CSRS_MAX {
            let detail = format!(
                "a batch has at most {BATCH_CSRS_MAX} requests and this one has more: send it in parts"
            );
            return Err(Problem::new(&kind::BATCH_TOO_MANY, detail));
        }
        let items = items.into_iter();
        Ok(Self { form, items })
    }
}

impl Iterator for Batch {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let bytes = self.items.next()?;
        Some(match self.form {
            Form::Ndjson => line(&bytes),
            Form::Pem => Item {
                id: None,
                device_id: None,
                csr: fits(&bytes).map(|()| Bytes::copy_from_slice(&bytes)),
            },
        })
    }
}

/// The lines that are not blank.
fn lines(body: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest: &[u8] = body;
    let lines = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = find(rest, b"\n").map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(line.trim_ascii())
    });
    lines
        .filter(|line| !line.is_empty())
        .map(|line| body.slice_ref(line))
}

/// One line of NDJSON.
fn line(bytes: &[u8]) -> Item {
    let refused = |detail: String| Item {
        id: None,
        device_id: None,
        csr: Err(Problem::new(&kind::BATCH_LINE, detail)),
    };
    match serde_json::from_slice::<Line>(bytes) {
        Ok(line)
            if line
                .id
                .as_ref()
                .is_some_and(|id| id.chars().count() > ID_CHARS_MAX) =>
        {
            refused(format!("an id has at most {ID_CHARS_MAX} characters"))
        }
        // A text that can be no device id is not given back: it may be as long as the batch.
        Ok(Line {
            id,
            device_id: Some(device_id),
            ..
        }) if !is_device_id(&device_id) => Item {
            id,
            device_id: None,
            csr: Err(Problem::from(&Refused::DeviceIdForm)),
        },
        Ok(line) => Item {
            id: line.id,
            device_id: line.device_id,
            csr: fits(line.csr.as_bytes()).map(|()| Bytes::from(line.csr)),
        },
        Err(error) => {
            let at = error.column();
            refused(format!(
                "not {{\"csr\": \"…\", \"device_id\": \"…\", \"id\": \"…\"}} (column {at}); only \"csr\" must be there"
            ))
        }
    }
}

/// Refuses a request that is too long to be kept: a slice would keep the whole body as long as one item is in work.
fn fits(request: &[u8]) -> Result<(), Problem> {
    if request.len() > CSR_BYTES_MAX {
        return Err(Problem::from(&CsrRefused::TooLong(CSR_BYTES_MAX)));
    }
    Ok(())
}

/// The PEM blocks; what stands between them is explanatory text (RFC 7468, 2).
fn blocks(body: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest: &[u8] = body;
    std::iter::from_fn(move || {
        let block = rest.get(find(rest, BEGIN)?..)?;
        let inside = block.get(BEGIN.len()..)?;
        let next = find(inside, BEGIN).map_or(block.len(), |at| BEGIN.len() + at);
        let (block, after) = block.split_at_checked(next)?;
        rest = after;
        // Only up to where the next block begins, so that no byte is looked at again for each block before it. A block
        // without its end is an item too: `csr` refuses it.
        let length = find(block, END).map_or(block.len(), |end| {
            let last = block.get(end..).unwrap_or_default();
            end + find(last, b"\n").unwrap_or(last.len())
        });
        Some(body.slice_ref(block.get(..length)?))
    })
}

/// Where `wanted` begins in `text`.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    // The first byte is looked for alone, which is fast, since base64 has no hyphen.
    let first = *wanted.first()?;
    let mut from = 0;
    loop {
        let rest = text.get(from..)?;
        let found = rest.iter().position(|c| *c == first);
        #[cfg(test)]
        tests::looked_at(found.map_or(rest.len(), |at| at + 1));
        let at = from + found?;
        if text.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::limits::BATCH_BYTES_MAX;

    thread_local! {
        /// The bytes that [`find`] looked at in this test.
        static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts bytes that [`find`] looked at.
    pub(super) fn looked_at(bytes: usize) {
        LOOKED_AT.set(LOOKED_AT.get() + bytes);
    }

    /// The items of a body.
    fn items(body: &str) -> Result<Vec<Item>, Problem> {
        Batch::split(&Bytes::copy_from_slice(body.as_bytes())).map(Iterator::collect)
    }

    /// The requests of a body's items.
    fn requests(body: &str) -> Vec<String> {
        let text = |item: Item| String::from_utf8(item.csr.unwrap().to_vec()).unwrap();
        items(body).unwrap().into_iter().map(text).collect()
    }

    #[test]
    fn ndjson_gives_an_item_a_line() {
        let body =
            "{\"csr\":\"A\",\"device_id\":\"d\",\"id\":\"1\"}\r\n\n  {\"csr\":\"B\"}\n{\"csr\":7}";
        let found = items(body).unwrap();
        let first = Item {
            id: Some("1".into()),
            device_id: Some("d".into()),
            csr: Ok(Bytes::from_static(b"A")),
        };
        assert_eq!(found[0], first);
        assert_eq!(found[1].csr, Ok(Bytes::from_static(b"B")));
        assert_eq!(found[2].csr.as_ref().unwrap_err().rule(), "batch-line");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_bad_line_is_refused_alone() {
        let long = format!("{{\"csr\":\"A\",\"id\":\"{}\"}}", "x".repeat(129));
        let rows = [
            "{\"csr\":\"A\",\"other\":1}",
            "{}",
            "{",
            "{\"csr\":null}",
            &long,
        ];
        for bad in rows {
            let body = format!("{{\"csr\":\"A\"}}\n{bad}\n{{\"csr\":\"B\"}}");
            let found = items(&body).unwrap();
            let fine: Vec<_> = found.iter().map(|item| item.csr.is_ok()).collect();
            assert_eq!(fine, [true, false, true], "{bad}");
        }
    }

    #[test]
    fn what_can_be_no_device_id_is_not_given_back() {
        for bad in ["x".repeat(65), String::new(), " a".into(), "é".into()] {
            let body = serde_json::json!({"csr": "A", "device_id": bad, "id": "7"});
            let found = items(&body.to_string()).unwrap();
            assert_eq!(found[0].csr.as_ref().unwrap_err().rule(), "device-id-form");
            assert_eq!(
                (&found[0].device_id, &found[0].id),
                (&None, &Some("7".into()))
            );
        }
    }

    #[test]
    fn pem_gives_an_item_a_block_without_the_text_between() {
        let one = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----";
        let body = format!("{one}\nsubject=x\n{one}\r\n\r\n{one}");
        let mut expected = vec![one.to_owned(); 3];
        expected[1].push('\r');
        assert_eq!(requests(&body), expected);
    }

    #[test]
    fn an_item_holds_its_own_bytes_and_not_too_many() {
        let one = "-----BEGIN X-----\nAA\n-----END X-----\n";
        let body = Bytes::from(one.repeat(2));
        let inside = body.as_ptr_range();
        for item in Batch::split(&body).unwrap() {
            assert!(!inside.contains(&item.csr.unwrap().as_ptr()));
        }
        let long = "A".repeat(CSR_BYTES_MAX + 1);
        let rows = [
            format!("{one}-----BEGIN X-----\n{long}\n-----END X-----"),
            format!("{{\"csr\":\"A\"}}\n{{\"csr\":\"{long}\"}}"),
        ];
        for body in rows {
            let found = items(&body).unwrap();
            assert!(found[0].csr.is_ok());
            assert_eq!(
                found[1].csr.as_ref().unwrap_err().rule(),
                "request-too-long"
            );
        }
    }

    #[test]
    fn a_block_without_end_does_not_swallow_the_next() {
        let open = "-----BEGIN CERTIFICATE REQUEST-----\nAA\n";
        let whole = "-----BEGIN X-----\nBB\n-----END X-----";
        assert_eq!(requests(&format!("{open}{whole}")), [open, whole]);
        assert_eq!(requests(&format!("{whole}\n{open}")), [whole, open]);
        assert_eq!(requests("-----BEGIN "), ["-----BEGIN "]);
        assert_eq!(requests("-----END X-----"), [""; 0]);
    }

    #[test]
    fn what_is_no_batch_is_refused_whole() {
        for body in ["", "  \n", "MIIB", "[{}]", "\u{0}"] {
            assert_eq!(items(body).unwrap_err().rule(), "batch-format", "{body:?}");
        }
        let many = "{\"csr\":\"A\"}\n".repeat(BATCH_CSRS_MAX + 1);
        assert_eq!(items(&many).unwrap_err().rule(), "batch-too-many");
        let most = "{\"csr\":\"A\"}\n".repeat(BATCH_CSRS_MAX);
        assert_eq!(items(&most).unwrap().len(), BATCH_CSRS_MAX);
    }

    #[test]
    fn no_body_takes_more_work_than_its_bytes_or_more_items_than_a_batch_has() {
        let block = "-----BEGIN X-----\nAA\n-----END X-----\n";
        let rows = [
            // What repeats after how it begins, and how much of a full body may be looked at: that many times, or
            // up to one item too many.
            (
                "-----BEGIN ",
                "",
                3 * 11 * BATCH_CSRS_MAX + 1024,
                "batch-too-many",
            ),
            (
                "-----BEGIN -----END ",
                "",
                5 * 20 * BATCH_CSRS_MAX + 1024,
                "batch-too-many",
            ),
            (
                block,
                "",
                5 * block.len() * BATCH_CSRS_MAX + 1024,
                "batch-too-many",
            ),
            ("a\n", "{\n", 2 * BATCH_CSRS_MAX + 1024, "batch-too-many"),
            ("-----END ", "", BATCH_BYTES_MAX, "0"),
            ("-----END ", "-----BEGIN ", 3 * BATCH_BYTES_MAX, "1"),
            ("-----BEGIN", "", BATCH_BYTES_MAX, "0"),
            ("-", "-----BEGIN ", 3 * BATCH_BYTES_MAX, "1"),
            ("\n", "{", BATCH_BYTES_MAX, "1"),
            (" ", "{", BATCH_BYTES_MAX, "1"),
        ];
        for (again, start, bytes_max, expected) in rows {
            let mut body = start.to_owned();
            body += &again.repeat((BATCH_BYTES_MAX - start.len()) / again.len());
            let body = Bytes::from(body);
            LOOKED_AT.set(0);
            let told = match Batch::split(&body) {
                Ok(batch) => batch.items.len().to_string(),
                Err(problem) => problem.rule().to_owned(),
            };
            assert_eq!(told, expected, "{start}{again}");
            let looked_at = LOOKED_AT.get();
            assert!(looked_at <= bytes_max, "{start}{again}: {looked_at}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_split_or_refused(body in any::<Vec<u8>>()) {
            let _ = Batch::split(&Bytes::from(body)).map(Iterator::count);
        }

        #[test]
        fn cut_and_mutated_pem_is_split(cut in 0usize..400, at in 0usize..400, with in any::<u8>()) {
            let one = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
            let mut body = one.repeat(4).into_bytes();
            let length = body.len();
            body[at % length] = with;
            body.truncate(length - cut % length);
            if let Ok(batch) = Batch::split(&Bytes::from(body)) {
                prop_assert!(batch.count() <= 4);
            }
        }

        #[test]
        fn every_item_of_a_good_batch_comes_back(ids in proptest::collection::vec("[a-z]{0,20}", 1..40)) {
            let lines: Vec<_> = ids
                .iter()
                .map(|id| serde_json::json!({"csr": "A", "id": id}).to_string())
                .collect();
            let found = items(&lines.join("\n")).unwrap();
            let back: Vec<_> = found.into_iter().map(|item| item.id.unwrap()).collect();
            prop_assert_eq!(back, ids);
        }
    }
}
