//! Text and numbers as they stand in markup.

use crate::report::number::Written;
use maud::{Markup, Render, html};

/// Places outside the picture are cut here, so that a coordinate stays short.
const PLACE_MAX: f64 = 10_000.0;

/// Text without the characters that XML forbids (controls, surrogate relics), escaped.
pub(crate) struct Clean<'a>(pub(crate) &'a str);

impl Render for Clean<'_> {
    fn render_to(&self, buffer: &mut String) {
        let forbidden = |c: char| {
            (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
                || matches!(c, '\u{fffe}' | '\u{ffff}')
        };
        if self.0.contains(forbidden) {
            let clean: String = self.0.chars().filter(|c| !forbidden(*c)).collect();
            clean.as_str().render_to(buffer);
        } else {
            self.0.render_to(buffer);
        }
    }
}

/// A coordinate with at most two decimals.
pub(super) fn px(place: f64) -> String {
    let place = if place.is_nan() { 0.0 } else { place };
    let text = format!("{:.2}", place.clamp(-PLACE_MAX, PLACE_MAX));
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

/// `text`, or as much of it as fits into `width`, then with the whole text as its tooltip.
pub(super) fn fitted(text: &str, size: f64, width: f64) -> Markup {
    if text_width(text, size) <= width {
        return html! { (Clean(text)) };
    }
    let mut room = width - char_width('…') * size;
    let fits = |c: &char| {
        room -= char_width(*c) * size;
        room >= 0.0
    };
    let start: String = text.chars().take_while(fits).collect();
    html! { title { (Clean(text)) } (Clean(start.trim_end())) "…" }
}

/// A number inside a `text` element, its exponent raised.
pub(super) fn written(number: &Written) -> Markup {
    let (base, exponent) = number.parts();
    html! {
        (base)
        @if let Some(exponent) = exponent {
            tspan.exponent dy="-5" { (exponent) }
        }
    }
}

/// About how wide [`written`] is at `size`.
pub(super) fn written_width(number: &Written, size: f64) -> f64 {
    let (base, exponent) = number.parts();
    text_width(&base, size) + exponent.map_or(0.0, |exponent| text_width(&exponent, size * 0.75))
}

/// About how wide `text` is: SVG has no way to ask. Errs towards wide.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(char_width).sum::<f64>() * size
}

/// Width of a character of a common sans-serif font, as a share of its size.
fn char_width(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 0.30,
        ' ' | 'f' | 't' | 'r' | 'I' | '(' | ')' | '[' | ']' | '-' | '/' => 0.38,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 0.92,
        'A'..='Z' | '×' | '−' => 0.70,
        _ if c.is_ascii() => 0.59,
        _ if c.is_alphanumeric() && u32::from(c) < 0x2e80 => 0.62,
        _ => 1.0,
    }
}
