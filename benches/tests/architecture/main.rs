//! The architecture as a test: who may import whom, where foreign libraries stop, which words we
//! use, and what no file may contain. Each rule is a row of a table that says what to do instead.

mod imports;
mod source;
mod tidy;
mod words;

/// Fails with every violation at once, so that one run shows all there is to repair.
#[track_caller]
fn check(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n  {}\n", violations.join("\n  "));
}
