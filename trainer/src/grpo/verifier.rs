//! Whether a completion is right.

use std::fmt::Debug;

/// Who decides whether a completion is right. Exact: the same texts have the same reward always.
pub trait Verifier: Debug + Sync {
    /// Reward, from 0 to 1, of `completion` after `prompt`, to which `answer` is known.
    fn reward(&self, prompt: &str, answer: &str, completion: &str) -> f64;
}

/// The same text, white space around it left out.
#[derive(Debug, Clone, Copy)]
pub struct SameText;

impl Verifier for SameText {
    fn reward(&self, _prompt: &str, answer: &str, completion: &str) -> f64 {
        one_if(answer.trim() == completion.trim())
    }
}

/// The same decimal number, whatever its length. What is no number is wrong.
#[derive(Debug, Clone, Copy)]
pub struct SameNumber;

impl Verifier for SameNumber {
    fn reward(&self, _prompt: &str, answer: &str, completion: &str) -> f64 {
        let [answer, completion] = [answer, completion].map(|text| Decimal::parse(text.trim()));
        one_if(answer.is_some() && answer == completion)
    }
}

/// The sum that the prompt, such as `12+34=`, asks for, computed from the prompt itself.
#[derive(Debug, Clone, Copy)]
pub struct ExactSum;

impl Verifier for ExactSum {
    fn reward(&self, prompt: &str, _answer: &str, completion: &str) -> f64 {
        let terms = prompt.strip_suffix('=').map(|sum| sum.split('+').map(str::parse::<u64>));
        let sum = terms
            .and_then(|mut terms| terms.try_fold(0_u64, |sum, term| sum.checked_add(term.ok()?)));
        match sum {
            Some(sum) => SameNumber.reward(prompt, &sum.to_string(), completion),
            None => 0.0, // A question that is no sum has no right answer.
        }
    }
}

fn one_if(is_right: bool) -> f64 {
    if is_right { 1.0 } else { 0.0 }
}

/// A decimal number, without zeros that do not count.
#[derive(Debug, PartialEq, Eq)]
struct Decimal<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (has_minus, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { is_negative: has_minus && !is_zero, whole, fraction })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_right_completions_are_rewarded() {
        let check = |verifier: &dyn Verifier, prompt, answer, completion, wanted: f64| {
            let found = verifier.reward(prompt, answer, completion);
            assert_eq!(found, wanted, "{verifier:?} {prompt:?} {answer:?} {completion:?}");
        };
        for (completion, wanted) in [
            ("46", 1.0),
            ("046", 1.0),
            (" 46\n", 1.0),
            ("46.0", 1.0),
            ("47", 0.0),
            ("+46", 0.0),
            ("4 6", 0.0),
            ("46=", 0.0),
            ("", 0.0),
            ("-46", 0.0),
        ] {
            check(&ExactSum, "12+34=", "not looked at", completion, wanted);
        }
        check(&ExactSum, "12-34=", "", "46", 0.0);
        check(&ExactSum, "18446744073709551615+1=", "", "0", 0.0);
        for (answer, completion, wanted) in [
            ("2.50", "2.5", 1.0),
            ("-0", "0", 1.0),
            ("-1", "1", 0.0),
            ("0.10", "00.1", 1.0),
            ("123456789012345678901234567890", "123456789012345678901234567890", 1.0),
            ("123456789012345678901234567890", "123456789012345678901234567891", 0.0),
            ("1e3", "1000", 0.0),
            ("words", "words", 0.0),
            ("1.", "1", 0.0),
        ] {
            check(&SameNumber, "", answer, completion, wanted);
        }
        check(&SameText, "", "to be ", " to be", 1.0);
        check(&SameText, "", "to be", "To be", 0.0);
    }
}
