//! Reads the project's own Rust source as tokens, for the tests that judge it.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A source file and its tokens.
pub struct SourceFile {
    /// Relative to the repository's root.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    /// The text without comments and literals.
    pub tokens: Vec<Token>,
}

/// An identifier, or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The identifier or the character.
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

/// All Rust files below a directory of the repository, sorted.
///
/// # Panics
/// When a directory or file cannot be read: the tree is not what the test was written for.
pub fn files_below(directory: &str) -> Vec<SourceFile> {
    let mut pending = vec![root().join(directory)];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(read(&path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "there is no source below {directory}");
    found
}

/// Reads one file.
fn read(path: &Path) -> SourceFile {
    let text = std::fs::read_to_string(path).unwrap();
    SourceFile {
        path: path.strip_prefix(root()).unwrap().to_owned(),
        tokens: tokens(&text),
        text,
    }
}

/// Splits Rust source into identifiers and punctuation; comments, strings and numbers leave nothing.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => i = end_of_block_comment(&chars, i),
            '"' => i = end_of_string(&chars, i),
            '\'' => i = end_of_quote(&chars, i),
            c if c.is_alphabetic() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let hashes = (i..).take_while(|&k| at(k) == '#').count();
                let literal = matches!(word.as_str(), "r" | "br" | "cr" | "b" | "c");
                if literal && at(i + hashes) == '"' {
                    i = if word.contains('r') {
                        end_of_raw_string(&chars, i, hashes)
                    } else {
                        end_of_string(&chars, i)
                    };
                } else if word == "b" && at(i) == '\'' {
                    i = end_of_quote(&chars, i);
                } else {
                    found.push(Token { text: word, line });
                }
            }
            c if c.is_ascii_digit() => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
            }
            c => {
                if !c.is_whitespace() {
                    let text = c.to_string();
                    found.push(Token { text, line });
                }
                i += 1;
            }
        }
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// The index after a block comment, which may hold others.
fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0_usize, start);
    while i < chars.len() {
        match chars.get(i..i + 2) {
            Some(['/', '*']) => (depth, i) = (depth + 1, i + 2),
            Some(['*', '/']) => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

/// The index after a string with escapes whose opening quote stands at `start`.
fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

/// The index after a raw string whose hashes start at `start`.
fn end_of_raw_string(chars: &[char], start: usize, hashes: usize) -> usize {
    let mut i = start + hashes + 1;
    while i < chars.len() {
        let closed = chars[i] == '"' && (1..=hashes).all(|k| chars.get(i + k) == Some(&'#'));
        if closed {
            return i + hashes + 1;
        }
        i += 1;
    }
    i
}

/// The index after a character literal, or after the quote alone where it starts a lifetime.
fn end_of_quote(chars: &[char], start: usize) -> usize {
    if chars.get(start + 1) == Some(&'\\') {
        let close = (start + 3..).find(|&i| chars.get(i).is_none_or(|c| *c == '\''));
        return close.map_or(chars.len(), |i| i + 1);
    }
    if chars.get(start + 2) == Some(&'\'') {
        return start + 3;
    }
    start + 1
}

/// The paths that start at the crate's root or at a named crate, as `a::b::c`, groups in `use` spread out.
pub fn paths(tokens: &[Token], roots: &[&str]) -> Vec<(Vec<String>, usize)> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let after_path = i >= 2 && tokens[i - 1].text == ":" && tokens[i - 2].text == ":";
        let starts = roots.contains(&tokens[i].text.as_str()) && !after_path;
        let goes_on = tokens.get(i + 1).is_some_and(|t| t.text == ":")
            && tokens.get(i + 2).is_some_and(|t| t.text == ":");
        if starts && goes_on {
            spread(tokens, i, &[], &mut found);
        }
        i += 1;
    }
    found
}

/// Follows one path from `i`, spreads a group, and returns the index after it.
fn spread(
    tokens: &[Token],
    mut i: usize,
    before: &[String],
    found: &mut Vec<(Vec<String>, usize)>,
) -> usize {
    let mut path = before.to_vec();
    let line = tokens.get(i).map_or(0, |t| t.line);
    while let Some(token) = tokens.get(i) {
        if token.text == "{" {
            i += 1;
            while tokens.get(i).is_some_and(|t| t.text != "}") {
                i = spread(tokens, i, &path, found);
                if tokens.get(i).is_some_and(|t| t.text == ",") {
                    i += 1;
                }
            }
            return i + 1;
        }
        path.push(token.text.clone());
        i += 1;
        let goes_on = tokens.get(i).is_some_and(|t| t.text == ":")
            && tokens.get(i + 1).is_some_and(|t| t.text == ":");
        if !goes_on {
            break;
        }
        i += 2;
    }
    // A name after `as` is no part of the path.
    if tokens.get(i).is_some_and(|t| t.text == "as") {
        i += 2;
    }
    found.push((path, line));
    i
}

#[test]
fn comments_and_literals_leave_no_tokens() {
    let text = r##"
        // use crate::a;
        /* use /* crate::b */ crate::c; */
        let s = "crate::d \" crate::e"; let r = r#"crate::f " "#; let c = '"'; let b = b'\'';
        fn f<'a>(x: &'a str) -> char { 'x' }
        use crate::{g, h::{i, j as k}};
    "##;
    let found = paths(&tokens(text), &["crate"]);
    let found: Vec<String> = found.iter().map(|(path, _)| path.join("::")).collect();
    assert_eq!(found, ["crate::g", "crate::h::i", "crate::h::j"]);
}
