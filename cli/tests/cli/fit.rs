//! `brine fit` on tables that the tests make themselves.

use crate::bench::Bench;
use std::fmt::Write as _;

const TRUTH: [(&str, f64); 5] =
    [("E", 1.8), ("A", 480.0), ("B", 2_100.0), ("alpha", 0.35), ("beta", 0.37)];

fn loss(parameters: f64, tokens: f64) -> f64 {
    let [e, a, b, alpha, beta] = TRUTH.map(|(_, value)| value);
    e + a / parameters.powf(alpha) + b / tokens.powf(beta)
}

/// Seven models at each of five budgets around the optimum, without noise.
fn table() -> String {
    let mut text = String::from("run,params,flops,tokens,loss,kind\n");
    for budget in [1e18, 1e19, 1e20, 1e21, 1e22] {
        let centre = 0.1 * f64::powf(budget, 0.5);
        for step in -3..=3 {
            let parameters = centre * 2_f64.powi(step);
            let tokens = budget / (6.0 * parameters);
            let loss = loss(parameters, tokens);
            writeln!(text, "x,{parameters:e},{budget:e},{tokens:e},{loss},a")
                .expect("a string takes every write");
        }
    }
    text
}

#[test]
fn the_constants_of_a_known_surface_come_back() {
    let bench = Bench::new();
    let mut text = table();
    text.push_str("outlier,1e8,1e20,1e12,99,a\nother,1e8,1e20,1e12,7,b\n");
    bench.write("table.csv", &text);
    let arguments = [
        "fit",
        "table.csv",
        "--flops",
        "flops",
        "--budget",
        "flops",
        "--where",
        "kind=a",
        "--drop-highest",
        "1",
        "--bootstrap",
        "200",
        "--target-budget",
        "1e23",
        "--output",
        "json",
    ];
    let json = bench.brine(&arguments).code(0).json();
    let parametric = &json["parametric"];
    assert_eq!(parametric["n"], 35);
    for (name, expected) in TRUTH {
        let found = parametric[name]["value"].as_f64().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-3, "{name} is {found}, not {expected}");
    }
    for (fit, name) in
        [("parametric", "a"), ("parametric", "b"), ("approach2", "a"), ("approach2", "b")]
    {
        let estimate = &json[fit][name];
        let [low, high] = [0, 1].map(|end| estimate["ci95"][end].as_f64().unwrap());
        assert!(low <= high, "{fit} {name}: {estimate}");
    }
    assert_eq!(json["parametric"]["prediction"]["flops"], 1e23);
}

#[test]
fn a_person_sees_both_fits_with_intervals() {
    let bench = Bench::new();
    bench.write("table.csv", &table());
    let arguments =
        ["fit", "table.csv", "--tokens", "tokens", "--budget", "flops", "--bootstrap", "100"];
    let ended = bench.brine(&arguments).code(0);
    for text in ["35 of 35 rows used", "parametric fit", "Approach 2", "alpha", "[", "a (N* ~ C^a)"]
    {
        assert!(ended.stdout.contains(text), "{text}: {}", ended.stdout);
    }
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_wrong_table_is_refused_with_the_place() {
    let bench = Bench::new();
    let check = |text: &str, arguments: &[&str], expected: &str| {
        bench.write("table.csv", text);
        let mut all = vec!["fit", "table.csv"];
        all.extend(arguments);
        let ended = bench.brine(&all).code(1);
        assert!(ended.stderr.contains(expected), "{expected}: {}", ended.stderr);
        assert!(ended.stderr.contains("table.csv"), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    };
    check("", &["--tokens", "tokens"], "empty");
    check("params,tokens,loss\n", &["--tokens", "tokens"], "no rows");
    check("params,tokens,loss\n1,2,x\n", &["--tokens", "tokens"], "line 2, column `loss`");
    check("params,tokens,loss\n1,2,-3\n", &["--tokens", "tokens"], "positive");
    check("params,tokens,loss\n1,2,3\n", &["--tokens", "token"], "did you mean `tokens`");
    check("params,tokens,loss\n1,2\n", &["--tokens", "tokens"], "record");
    let missing = bench.brine(&["fit", "missing.csv", "--tokens", "t"]).code(1);
    assert!(missing.stderr.contains("cannot read the table missing.csv"), "{}", missing.stderr);
}

#[test]
fn a_table_that_allows_no_fit_is_an_error_with_the_reasons() {
    let bench = Bench::new();
    bench.write("table.csv", "params,tokens,loss\n1e6,1e8,3\n2e6,1e8,2.9\n");
    let ended = bench.brine(&["fit", "table.csv", "--tokens", "tokens"]).code(1);
    assert!(ended.stdout.contains("note: no parametric fit"), "{}", ended.stdout);
    assert!(ended.stderr.contains("neither fit is possible"), "{}", ended.stderr);
}
