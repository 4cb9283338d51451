//! The layers of the appliance: lower modules never import higher ones, and values that entitle a
//! signature are made where the design says and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{SourceFile, Token, files_below, paths, root, tokens};

/// Each top-level module and its layer.
const LAYERS: &[(&str, u8)] = &[
    ("main", 5),
    ("bin", 5),
    ("cli", 5),
    ("daemon", 5),
    ("http", 4),
    ("admin", 4),
    ("ceremony", 4),
    ("issuance", 3),
    ("revocation", 3),
    ("crl", 3),
    ("responders", 3),
    ("witnesses", 3),
    ("issuer", 2),
    ("signing_log", 1),
    ("profile", 1),
    ("ra", 1),
    ("csr", 1),
    ("hsm", 0),
    ("store", 0),
    ("config", 0),
    ("limits", 0),
    ("time", 0),
    ("secret", 0),
];

/// Edges inside a layer, each with its reason.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    ("main", "cli", "the program is its command line"),
    ("cli", "daemon", "`serve` starts the daemon"),
    (
        "admin",
        "http",
        "the same connections and problem documents",
    ),
    (
        "revocation",
        "issuance",
        "a CRL follows when its issuer's token is there",
    ),
    (
        "revocation",
        "crl",
        "what is wrong with CRLs is said with a revocation",
    ),
    ("signing_log", "profile", "an intent holds a Tbs"),
    ("signing_log", "ra", "an intent takes an order's unit"),
    ("profile", "ra", "a grant says what may be built"),
    ("profile", "csr", "the request asks for it"),
    ("config", "limits", "what may be configured is bounded"),
    ("hsm", "config", "tokens are configured"),
    ("hsm", "secret", "PINs and a log key are read from files"),
    ("hsm", "limits", "queues are bounded"),
];

/// Types whose values entitle something, and the only modules that may write one out.
const MADE_ONLY_BY: &[(&str, &[&str])] = &[
    ("Tbs", &["profile"]),
    ("Intent", &["signing_log"]),
    ("Certificate", &["signing_log"]),
    ("Issued", &["signing_log"]),
    ("Signed", &["issuer"]),
    ("Grant", &["ra"]),
    ("VerifiedCsr", &["csr"]),
];

/// Types that only these modules may name.
const NAMED_ONLY_BY: &[(&str, &[&str])] = &[("CaKey", &["hsm", "issuer"])];

/// Methods whose names no other type has, and the only modules that may call them. What `ra` holds follows the
/// log: it changes when the log says so, and at no other time. A CA key is opened where it gets its name in the log.
const CALLED_ONLY_BY: &[(&str, &[&str])] = &[
    ("apply", &["ra", "signing_log"]),
    ("set_units", &["ra", "signing_log"]),
    ("ca_key", &["hsm", "issuer"]),
];

/// The layer of a top-level module.
fn layer(module: &str) -> Option<u8> {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.map(|(_, layer)| *layer)
}

/// Whether `from` may import `to`.
fn allowed(from: &str, to: &str) -> bool {
    let (Some(upper), Some(lower)) = (layer(from), layer(to)) else {
        return false;
    };
    from == to || upper > lower || SIDEWAYS.iter().any(|(a, b, _)| (*a, *b) == (from, to))
}

/// The top-level module of a file below `src/`, and how deep the file's own module lies.
fn module_of(file: &SourceFile) -> (String, usize) {
    let inside = file.path.strip_prefix("src").unwrap().with_extension("");
    let parts: Vec<String> = inside
        .iter()
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    (parts[0].clone(), parts.len())
}

/// The modules that a file refers to through `crate::`, `hallmark::` and `super::` chains, with lines.
fn references(tokens: &[Token], depth: usize) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = paths(tokens, &["crate", "hallmark"])
        .into_iter()
        .filter_map(|(path, line)| Some((path.get(1)?.clone(), line)))
        .collect();
    // `super` climbs out of inline modules first, so the depth is followed through the braces.
    let mut inline: Vec<usize> = Vec::new();
    let mut braces = 0_usize;
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        match token.text.as_str() {
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                inline.retain(|opened_at| *opened_at < braces + 1);
            }
            "mod" if tokens.get(i + 2).is_some_and(|t| t.text == "{") => inline.push(braces + 1),
            "super" => {
                let climbs = climbs_from(tokens, i);
                let names = paths(&tokens[i..], &["super"]);
                if climbs >= depth + inline.len() {
                    let first = names.into_iter().next();
                    let target =
                        first.and_then(|(path, line)| Some((path.get(climbs)?.clone(), line)));
                    found.extend(target);
                }
                i += climbs * 3 - 3;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// How many `super` stand in a row, joined by `::`, from `i`.
fn climbs_from(tokens: &[Token], i: usize) -> usize {
    let mut climbs = 1;
    while tokens
        .get(i + climbs * 3)
        .is_some_and(|t| t.text == "super")
        && tokens
            .get(i + climbs * 3 - 1)
            .is_some_and(|t| t.text == ":")
    {
        climbs += 1;
    }
    climbs
}

/// Every reference of a module to another: from, to, and where it stands.
fn imports() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for file in files_below("src") {
        let (from, depth) = module_of(&file);
        if from == "lib" {
            continue;
        }
        assert!(
            layer(&from).is_some(),
            "{}: src/{from} has no layer: give it one here and in docs/ISSUANCE.md",
            file.path.display()
        );
        for (to, line) in references(&file.tokens, depth) {
            if layer(&to).is_some() && from != to {
                let place = format!("{}:{line}", file.path.display());
                found.push((from.clone(), to, place));
            }
        }
    }
    found
}

#[test]
fn lower_layers_never_import_higher_ones() {
    let faults: Vec<String> = imports()
        .into_iter()
        .filter(|(from, to, _)| !allowed(from, to))
        .map(|(from, to, place)| format!("{place}: {from} imports {to}"))
        .collect();
    assert!(
        faults.is_empty(),
        "imports that climb the layers:\n{}",
        faults.join("\n")
    );
}

#[test]
fn what_is_allowed_inside_a_layer_is_needed() {
    let imports = imports();
    let idle: Vec<_> = SIDEWAYS
        .iter()
        .filter(|(a, b, _)| {
            !imports
                .iter()
                .any(|(from, to, _)| (from, to) == (&(*a).to_owned(), &(*b).to_owned()))
        })
        .collect();
    assert!(idle.is_empty(), "edges that no import uses: {idle:?}");
}

#[test]
fn every_declared_module_has_a_layer() {
    let library = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'))
        .collect();
    let without: Vec<_> = declared.iter().filter(|m| layer(m).is_none()).collect();
    assert!(without.is_empty(), "modules without a layer: {without:?}");
}

#[test]
fn the_picture_in_the_documents_shows_the_layers() {
    let page = std::fs::read_to_string(root().join("docs/ISSUANCE.md")).unwrap();
    let library = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for (module, layer) in LAYERS {
        if !library.contains(&format!("mod {module};")) {
            continue;
        }
        let prefix = format!(" {layer}  ");
        let picture = page.split("## Who may know what").nth(1).unwrap();
        let line = picture
            .lines()
            .find(|line| line.starts_with(&prefix))
            .unwrap();
        let words: Vec<&str> = line.split([' ', ',']).collect();
        assert!(
            words.contains(module),
            "{module} is not in layer {layer} of the picture: {line}"
        );
    }
}

#[test]
fn values_that_entitle_are_made_in_one_place() {
    let mut faults = Vec::new();
    // A module's own tests may make what they test.
    for file in files_below("src").iter().filter(|file| !is_test(file)) {
        let (module, _) = module_of(file);
        for (i, token) in file.tokens.iter().enumerate() {
            let place = || format!("{}:{}", file.path.display(), token.line);
            for (name, owners) in NAMED_ONLY_BY {
                if token.text == *name && !owners.contains(&module.as_str()) {
                    faults.push(format!("{}: {module} names {name}", place()));
                }
            }
            for (name, owners) in CALLED_ONLY_BY {
                let called = token.text == *name && is_call(&file.tokens, i);
                if called && !owners.contains(&module.as_str()) {
                    faults.push(format!("{}: {module} calls {name}", place()));
                }
            }
            for (name, owners) in MADE_ONLY_BY {
                let written_out = token.text == *name && is_literal(&file.tokens, i);
                if written_out && !owners.contains(&module.as_str()) {
                    faults.push(format!("{}: {module} makes a {name}", place()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Whether the name at `i` is called, as a method or through its type; a definition is no call.
fn is_call(tokens: &[Token], i: usize) -> bool {
    let text = |k: usize| tokens.get(k).map_or("", |t| t.text.as_str());
    let before = if i == 0 { "" } else { text(i - 1) };
    text(i + 1) == "(" && matches!(before, "." | ":")
}

/// Whether the type's name at `i` stands in a struct literal or pattern with fields (not in an item or type).
fn is_literal(tokens: &[Token], i: usize) -> bool {
    let text = |k: usize| tokens.get(k).map_or("", |t| t.text.as_str());
    let fields =
        text(i + 1) == "{" && (text(i + 3) == ":" || text(i + 3) == "," || text(i + 3) == "}");
    let before = if i == 0 { "" } else { text(i - 1) };
    // `impl X {`, `struct X {`, `for X {` and `-> X {` open items and bodies; `let X {` takes one apart.
    let item = matches!(before, "struct" | "enum" | "impl" | "for" | ">" | "let");
    // A variant such as `ToBeSigned::Certificate {` is another type's.
    let variant =
        before == ":" && i >= 3 && text(i - 3).chars().next().is_some_and(char::is_uppercase);
    fields && !item && !variant
}

#[test]
fn the_checks_see_what_they_look_for() {
    let climbing = tokens(
        "mod tests { use super::super::http; } use super::http::X; fn f() { crate::issuance::g() }",
    );
    let found: BTreeMap<String, usize> = references(&climbing, 1).into_iter().collect();
    let modules: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(modules, ["http", "issuance"]);
    let inside = tokens("mod tests { use super::http; }");
    assert!(
        references(&inside, 1).is_empty(),
        "one `super` stays inside the file"
    );
    let literal = tokens(
        "let t = Tbs { der, issuer }; struct Tbs { der: u8 } let x = ToBeSigned::Tbs { der: 1 };",
    );
    let made: Vec<bool> = (0..literal.len())
        .filter(|i| literal[*i].text == "Tbs")
        .map(|i| is_literal(&literal, i))
        .collect();
    assert_eq!(made, [true, false, false]);
    let calls = tokens("fn apply(x: u8) { self.apply(x); Registry::apply(r, x); let apply = 1; }");
    let called: Vec<bool> = (0..calls.len())
        .filter(|i| calls[*i].text == "apply")
        .map(|i| is_call(&calls, i))
        .collect();
    assert_eq!(called, [false, true, true, false]);
    assert!(!allowed("ra", "signing_log") && allowed("signing_log", "ra"));
    assert!(!allowed("hsm", "issuer") && !allowed("csr", "profile") && !allowed("time", "hsm"));
}

/// The longest file in lines; more needs a reason where it stands. Clippy counts the lines of functions.
const FILE_LINES_MAX: usize = 800;

/// Where the project's own files are.
const SOURCES: [&str; 10] = [
    "src",
    "examples",
    "ocsp-responder/src",
    "ocsp-responder/tests",
    "ocsp-responder/examples",
    "tests/it",
    "tests/faulting-disk",
    "tests/faulting-token",
    "tests/fuzz/src",
    "tests/fuzz/examples",
];

#[test]
fn files_fit_a_reader() {
    let mut faults = Vec::new();
    for directory in SOURCES {
        for file in files_below(directory) {
            let lines: Vec<&str> = file.text.lines().collect();
            let reason = file.text.contains("//! Longer than 800 lines: ");
            if lines.len() > FILE_LINES_MAX && !reason {
                faults.push(format!("{}: {} lines", file.path.display(), lines.len()));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "too long (split it, or state the reason in its header):\n{}",
        faults.join("\n")
    );
}

/// Whether a whole file is tests.
fn is_test(file: &SourceFile) -> bool {
    file.path.starts_with("tests")
        || file
            .path
            .iter()
            .any(|part| part == "tests.rs" || part == "tests")
}
