use super::*;
use proto::Inputs;
use studies::recipe::Recipe;

/// Trials of a grid over the whole numbers from `first` to `last` that end at once.
fn plan(first: i64, last: i64) -> Plan {
    let end = last + 1;
    let recipe = format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: grid}}\nspec:\n  study:\n    \
         sweep:\n      noop: {{}}\n      parameters: {{x: {{range: [{first}, {end}]}}}}\n      \
         search: grid\n"
    );
    let recipe = Recipe::parse(&recipe).unwrap();
    Plan::first(recipe.study(&Inputs::default()).unwrap())
}

fn values(side: &Side) -> Vec<String> {
    side.listed.iter().map(|spec| spec.parameters["x"].to_string()).collect()
}

#[test]
fn trials_are_added_kept_and_dropped() {
    for ((old_first, old_last), (new_first, new_last), kept, added, dropped) in [
        ((1, 3), (1, 3), 3, 0, 0),
        ((1, 3), (2, 4), 2, 1, 1),
        ((1, 3), (1, 9), 3, 6, 0),
        ((1, 9), (3, 4), 2, 0, 7),
        ((1, 3), (7, 9), 0, 3, 3),
    ] {
        let (old, new) = (plan(old_first, old_last), plan(new_first, new_last));
        let Comparison::Matched(matched) = compare(&old, &new, &BTreeSet::new(), |_| {}) else {
            panic!("the plans are small");
        };
        let found = (matched.kept, matched.added.count, matched.dropped.count);
        assert_eq!(found, (kept, added, dropped));
    }
}

#[test]
fn what_was_added_and_dropped_is_listed_and_the_ended_are_counted() {
    let (old, new) = (plan(1, 3), plan(2, 40));
    let ended = old.trials().map(|spec| spec.id()).take(2).collect();
    let Comparison::Matched(matched) = compare(&old, &new, &ended, |_| {}) else {
        panic!("the plans are small");
    };
    assert_eq!((matched.kept, matched.kept_ended), (2, 1));
    assert_eq!(values(&matched.dropped), ["1"]);
    assert_eq!((matched.added.count, matched.added.listed.len()), (37, LISTED_MAX));
    assert_eq!(values(&matched.added)[0], "4");
}

#[test]
fn a_small_plan_is_found_in_a_large_one() {
    let large = i64::try_from(COMPARED_MAX).unwrap() + 1;
    let Comparison::Matched(matched) =
        compare(&plan(1, large), &plan(5, 6), &BTreeSet::new(), |_| {})
    else {
        panic!("one of the plans is small");
    };
    assert_eq!((matched.kept, matched.added.count), (2, 0));
    assert_eq!(matched.dropped.count, COMPARED_MAX - 1);
}

#[test]
fn two_large_plans_are_not_compared_one_by_one() {
    let large = i64::try_from(COMPARED_MAX).unwrap() + 1;
    let found = compare(&plan(1, large), &plan(1, large), &BTreeSet::new(), |_| {});
    assert_eq!(found, Comparison::TooMany);
}

#[test]
fn trials_that_were_planned_later_count_once() {
    let mut old = plan(1, 3);
    let later = plan(3, 4).trials().map(Cow::into_owned).collect();
    old.extend(later);
    assert_eq!(old.count(), 4);
}
