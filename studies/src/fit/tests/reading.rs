use crate::fit::table::{DataColumn, TableOptions, fit_table, read};
use crate::fit::{Options, Point};

const TABLE: &str = "\
name,params,flops,loss,group
a,10,6000,3.5,1e18
b,20,6000,3.25,1000000000000000000
c,30,3600,3.0,2e18
";

fn columns() -> TableOptions {
    TableOptions {
        parameters: "params".into(),
        data: DataColumn::Flops("flops".into()),
        loss: "loss".into(),
        ..TableOptions::default()
    }
}

fn filtered(filters: &[&str]) -> TableOptions {
    let filters = filters.iter().map(|filter| filter.parse().unwrap()).collect();
    TableOptions { filters, ..columns() }
}

#[track_caller]
fn check_error(text: &str, options: &TableOptions, expected: &str) {
    assert_eq!(read(text, options).unwrap_err().to_string(), expected);
}

#[track_caller]
fn check_sizes(text: &str, options: &TableOptions, expected: &[f64]) {
    let table = read(text, options).unwrap();
    let sizes: Vec<f64> = table.points.iter().map(|point| point.parameters).collect();
    assert_eq!(sizes, expected);
}

#[test]
fn tokens_follow_from_flops_by_six_n_d() {
    let table = read(TABLE, &columns()).unwrap();
    let first = Point { parameters: 10.0, tokens: 100.0, loss: 3.5, budget: None };
    assert_eq!(table.points[0], first);
    assert_eq!(table.rows_read, 3);
    let tokens = TableOptions {
        data: DataColumn::Tokens("flops".into()),
        budget: Some("group".into()),
        ..columns()
    };
    let point = read(TABLE, &tokens).unwrap().points[2];
    assert_eq!((point.tokens, point.budget), (3600.0, Some(2e18)));
}

#[test]
fn conditions_compare_numbers_by_value_and_words_by_text() {
    check_sizes(TABLE, &filtered(&["group=1e18"]), &[10.0, 20.0]);
    check_sizes(TABLE, &filtered(&["group=1e18", "name=b"]), &[20.0]);
    check_error(
        TABLE,
        &filtered(&["group=3e18"]),
        "no row has group=3e18; the column has `1000000000000000000`, `1e18`, `2e18`",
    );
    let both = filtered(&["group=2e18", "name=b"]);
    check_error(TABLE, &both, "no row meets all conditions at once");
    assert!("group".parse::<crate::fit::table::Filter>().is_err());
}

#[test]
fn the_highest_losses_are_dropped() {
    let dropping = |drop_highest| TableOptions { drop_highest, ..columns() };
    check_sizes(TABLE, &dropping(1), &[30.0, 20.0]);
    check_error(TABLE, &dropping(3), "no rows are left: 3 were read and 3 of highest loss dropped");
}

#[test]
fn other_separators_and_spaces_are_understood() {
    let tabs = TABLE.replace(',', "\t");
    check_sizes(&tabs, &columns(), &[10.0, 20.0, 30.0]);
    let semicolons = format!("\u{feff}{}", TABLE.replace(',', " ; "));
    check_sizes(&semicolons, &columns(), &[10.0, 20.0, 30.0]);
}

#[test]
fn an_error_names_the_column_or_the_line() {
    let named = |parameters: &str| TableOptions { parameters: parameters.into(), ..columns() };
    check_error(
        TABLE,
        &named("param"),
        "the table has no column `param` (did you mean `params`?); \
         it has `name`, `params`, `flops`, `loss`, `group`",
    );
    check_error(
        TABLE,
        &named("xyz"),
        "the table has no column `xyz`; it has `name`, `params`, `flops`, `loss`, `group`",
    );
    check_error("", &columns(), "the table is empty; its first line must name the columns");
    check_error(
        "params,flops,loss\n",
        &columns(),
        "no rows are left: 0 were read and 0 of highest loss dropped",
    );
    let twice = "the table has more than one column `loss`";
    check_error("params,flops,loss,loss\n1,1,1,1\n", &columns(), twice);
    for bad in ["0", "-1", "inf", "three", "1e999"] {
        let text = TABLE.replace("3.25", bad);
        let expected = format!("line 3, column `loss`: expected a positive number, found `{bad}`");
        check_error(&text, &columns(), &expected);
    }
    check_error(
        "params,flops,loss\n1e300,1e-300,2\n",
        &columns(),
        &format!("line 2: C / (6 N) = {} / (6 * {}) is out of range", 1e-300, 1e300),
    );
    let ragged = read("params,flops,loss\n1,2\n", &columns()).unwrap_err();
    let source = std::error::Error::source(&ragged).expect("the cause is kept").to_string();
    assert!(source.contains("line: 2"), "{source}");
}

#[test]
fn rows_that_miss_a_value_are_left_out_and_counted() {
    for missing in ["", "NaN", "n/a", "-"] {
        let table = read(&TABLE.replace("3.25", missing), &columns()).unwrap();
        let whole = read(TABLE, &columns()).unwrap();
        assert_eq!((table.rows_missing, table.points.len()), (1, whole.points.len() - 1));
        assert_eq!(table.rows_read, whole.rows_read);
    }
    let all = "all 1 rows miss a cell that the fit needs: it is empty or NaN";
    check_error("params,flops,loss\n1,1,NaN\n", &columns(), all);
}

#[test]
fn the_json_has_the_documented_keys() {
    let mut text = String::from("params,flops,loss,budget\n");
    for point in super::isoflop_points(&super::CHINCHILLA, &[1e18, 1e19, 1e20], 5, 1.2, 0.0) {
        let budget = point.budget.unwrap();
        let row = [point.parameters, budget, point.loss, budget].map(|cell| cell.to_string());
        text += &(row.join(",") + "\n");
    }
    let with_budget = TableOptions { budget: Some("budget".into()), ..columns() };
    let options = Options { resamples: 60, ..Options::default() };
    let json = |columns: &TableOptions| {
        serde_json::to_value(fit_table(&text, columns, &options).unwrap()).unwrap()
    };
    let fit = json(&with_budget);
    for (section, keys) in [
        ("approach2", &["a", "b"][..]),
        ("parametric", &["E", "A", "B", "alpha", "beta", "a", "b"]),
    ] {
        for key in keys {
            let estimate = &fit[section][key];
            let value = estimate["value"].as_f64().expect("a number");
            let low = estimate["ci95"][0].as_f64().expect("a number");
            assert!(low <= value * (1.0 + 1e-6), "{section}.{key}: {estimate}");
        }
    }
    assert_eq!(fit["parametric"]["n"], 15);
    assert!(fit["parametric"]["objective"].as_f64().unwrap() < 1e-12);
    assert_eq!((&fit["seed"], &fit["resamples"]), (&0.into(), &60.into()));
    let without = json(&columns());
    assert!(without["approach2"].is_null());
    assert!(without["notes"].to_string().contains("--budget"));
}
