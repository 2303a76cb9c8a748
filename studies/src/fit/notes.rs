//! What a reader must know before believing a fit, in sentences.

use super::analysis::{Approach2, BudgetFit, Parametric, Resamples, lacks_intervals};
use super::approach2::{OFF_CENTRE_WARNING, Verdict};

/// Most budgets that are named one by one.
const BUDGETS_NAMED_MAX: usize = 12;

/// About the parametric fit; `absent` names the terms that no point shows.
pub(super) fn of_parametric(fit: Option<&Parametric>, absent: &[&str]) -> Vec<String> {
    let Some(fit) = fit else {
        return Vec::new();
    };
    let mut notes = Vec::new();
    if !absent.is_empty() {
        notes.push(format!(
            "parametric: the best fit has no term {}; its constants are not determined by these \
             points",
            absent.join(", ")
        ));
    }
    if fit.a.is_none() {
        notes.push(format!(
            "parametric: alpha {:.4} and beta {:.4} are not both positive, so there is no \
             compute-optimal size and no exponents a and b",
            fit.alpha.value, fit.beta.value
        ));
    }
    notes.extend(of_resamples(
        "parametric",
        fit.resamples,
        "did not converge or had no compute-optimal size",
    ));
    notes
}

/// About Approach 2 and its budgets.
pub(super) fn of_approach2(fit: Option<&Approach2>, budgets: &[BudgetFit]) -> Vec<String> {
    let mut notes = Vec::new();
    let unused: Vec<&BudgetFit> =
        budgets.iter().filter(|budget| budget.verdict != Verdict::Used).collect();
    for budget in unused.iter().take(BUDGETS_NAMED_MAX) {
        notes.push(format!("budget {:.3e} FLOPs {}", budget.flops, budget.verdict));
    }
    if unused.len() > BUDGETS_NAMED_MAX {
        notes.push(format!("... and {} more budgets not used", unused.len() - BUDGETS_NAMED_MAX));
    }
    let off_centre: Vec<String> = budgets
        .iter()
        .filter(|budget| budget.verdict == Verdict::Used)
        .filter_map(|budget| budget.minimum.map(|minimum| (budget.flops, minimum.off_centre)))
        .filter(|(_, place)| place.abs() > OFF_CENTRE_WARNING)
        .map(|(flops, place)| {
            let side = if place > 0.0 { "large" } else { "small" };
            format!("{flops:.3e} ({:.0} % towards {side} models)", 100.0 * place.abs())
        })
        .take(BUDGETS_NAMED_MAX)
        .collect();
    if !off_centre.is_empty() {
        notes.push(format!(
            "Approach 2 is biased where the minimum is far from the middle of its grid: budgets {}",
            off_centre.join(", ")
        ));
    }
    notes.extend(of_lost_minima(budgets));
    if let Some(fit) = fit {
        notes.extend(of_resamples(
            "Approach 2",
            fit.resamples,
            "had fewer than two budgets with a minimum inside the grid",
        ));
    }
    notes
}

/// Budgets whose intervals stand on a part of the resamples.
fn of_lost_minima(budgets: &[BudgetFit]) -> Option<String> {
    let lost = budgets.iter().filter_map(|budget| {
        let Resamples { requested, usable } = budget.minimum?.resamples;
        let flops = budget.flops;
        (usable < requested).then(|| format!("{flops:.3e} FLOPs ({usable} of {requested})"))
    });
    let lost: Vec<String> = lost.collect();
    let more = match lost.len().saturating_sub(BUDGETS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = lost[..lost.len().min(BUDGETS_NAMED_MAX)].join(", ");
    (!lost.is_empty()).then(|| {
        format!(
            "usable resamples of the budgets {named}{more}: the others have no minimum inside the \
             grid and are left out, so the intervals of N*, D* and L* may be too narrow"
        )
    })
}

fn of_resamples(method: &str, resamples: Resamples, why: &str) -> Option<String> {
    let Resamples { requested, usable } = resamples;
    let missing = requested.saturating_sub(usable);
    if missing == 0 {
        return None;
    }
    let consequence = if lacks_intervals(resamples) {
        "too few are left for intervals"
    } else {
        "they are left out of the intervals"
    };
    Some(format!("{method}: {missing} of {requested} resamples {why}; {consequence}"))
}
