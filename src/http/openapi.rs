//! The description of the line API (OpenAPI 3.1), written by hand beside this file.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};

/// The document.
const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`: for everyone, since it tells nothing of this appliance.
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::problem::kind;

    /// The document as a value.
    fn parsed() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Types that only operators get, on the admin socket.
    const OPERATORS: [&str; 7] = [
        "unknown-operator",
        "exists",
        "missing",
        "value-refused",
        "body-refused",
        "not-on-hold",
        "authority",
    ];

    #[test]
    fn it_describes_exactly_the_routes() {
        let document = parsed();
        let described: BTreeSet<&str> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let routed: BTreeSet<String> = crate::http::routes()
            .into_iter()
            // OpenAPI has no parameter for the rest of a path; the document says that slashes stand in this one.
            .map(|(path, _)| path.replace("{*", "{"))
            .collect();
        let described: BTreeSet<String> = described.into_iter().map(str::to_owned).collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn it_lists_exactly_the_problem_types_of_lines() {
        let document = parsed();
        let listed =
            document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].clone();
        let listed: BTreeSet<String> = serde_json::from_value(listed).unwrap();
        let made: BTreeSet<String> = kind::ALL
            .iter()
            .filter(|kind| !OPERATORS.contains(&kind.slug))
            .map(|kind| kind.urn())
            .collect();
        assert_eq!(listed, made);
    }

    #[test]
    fn the_guide_tells_each_problem_type_of_lines_once_with_its_status() {
        let guide = include_str!("../../docs/LINES.md");
        let (_, table) = guide.split_once("| status | types |").unwrap();
        let mut told = Vec::new();
        for row in table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'))
        {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let types = cells[2].split('`').skip(1).step_by(2);
            let mut unused: BTreeSet<&str> = cells[1].split(", ").collect();
            for slug in types {
                let kind = kind::ALL.iter().find(|kind| kind.slug == slug);
                let kind = kind.unwrap_or_else(|| panic!("there is no {slug}"));
                let status = kind.status.as_str();
                assert!(cells[1].contains(status), "{slug} has {status}: {row}");
                unused.remove(status);
                told.push(slug);
            }
            assert!(
                unused.is_empty() || cells[1] == "no answer",
                "{unused:?}: {row}"
            );
        }
        told.sort_unstable();
        let mut made: Vec<&str> = kind::ALL.iter().map(|kind| kind.slug).collect();
        made.retain(|slug| !OPERATORS.contains(slug));
        made.sort_unstable();
        assert_eq!(told, made);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        /// Follows each `$ref` below a value.
        fn follow(document: &Value, value: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{to}");
                    }
                    fields.values().for_each(|inner| follow(document, inner));
                }
                Value::Array(items) => items.iter().for_each(|inner| follow(document, inner)),
                _ => {}
            }
        }
        let document = parsed();
        follow(&document, &document);
    }

    #[test]
    fn every_operation_tells_its_answers_and_statuses() {
        let statuses: BTreeSet<String> = kind::ALL
            .iter()
            .map(|kind| kind.status.as_u16().to_string())
            .collect();
        for (path, item) in parsed()["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let responses = operation["responses"].as_object().unwrap();
                assert!(operation["summary"].is_string(), "{path}");
                assert!(
                    responses.keys().any(|status| status.starts_with('2')),
                    "{path}"
                );
                let unknown = responses
                    .keys()
                    .find(|status| !status.starts_with(['2', '3']) && !statuses.contains(*status));
                assert_eq!(unknown, None, "{path}");
            }
        }
    }
}
