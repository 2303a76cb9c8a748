use super::*;

fn view() -> View {
    let agent = |name: &str, connected, cpus_used| AgentRow {
        agent: name.to_owned(),
        host: "h".to_owned(),
        connected,
        cpus_used,
        cpus: 4,
        gpus_used: 1,
        gpus: 2,
        gpus_withdrawn: 0,
        gpu: "H100".to_owned(),
        running: cpus_used as usize,
    };
    let experiment = |name: &str, state: &str, priority, ended_per_s| ExperimentRow {
        experiment: name.to_owned(),
        state: state.to_owned(),
        priority,
        trials: 1_000_000,
        ended: 1_234,
        running: 3,
        ended_per_s,
    };
    let newest = Newest { attempt: 1, step: 120, shown: Some(("loss".to_owned(), 2.345_67)) };
    let trial = |trial: &str, newest| TrialRow {
        trial: trial.to_owned(),
        attempt: 1,
        agent: "a".to_owned(),
        newest,
    };
    View {
        coordinator: "http://c:7600".to_owned(),
        lost: String::new(),
        agents: vec![agent("a", true, 3), agent("b", false, 0)],
        experiments: vec![
            experiment("grid-0011", "running", Some(5), Some(12.34)),
            experiment("old-2233", "complete", None, None),
        ],
        trials: vec![trial("00000000000000aa", Some(newest)), trial("00000000000000bb", None)],
    }
}

fn texts(view: &View, width: usize, height: usize) -> Vec<String> {
    lines(view, width, height).into_iter().map(|line| line.text).collect()
}

#[test]
fn a_frame_shows_agents_experiments_and_running_trials() {
    let expected = [
        "brine top  http://c:7600  CPU slots 3/4 used  GPUs 1/2 used  q ends",
        "",
        "agent  host  CPU slots used  GPUs used  running  GPU",
        "a      h                3/4        1/2        3  H100",
        "b      h                0/4        1/2        0  not connected",
        "",
        "experiment  state     priority         ended  running  ended/s",
        "grid-0011   running          5  1234/1000000        3     12.3",
        "old-2233    complete         -  1234/1000000        3        -",
        "",
        "running trial     attempt  agent  step  newest",
        "00000000000000aa        1  a       120  loss=2.346",
        "00000000000000bb        1  a         -  -",
        "",
    ];
    assert_eq!(texts(&view(), 100, 40), expected);
}

#[test]
fn an_agent_with_a_withdrawn_gpu_says_so() {
    let mut view = view();
    (view.agents[0].gpus_used, view.agents[0].gpus, view.agents[0].gpus_withdrawn) = (1, 1, 1);
    let row =
        "a      h                3/4        1/1        3  H100; 1 withdrawn: see brine status";
    assert_eq!(texts(&view, 100, 40)[3], row);
}

#[test]
fn a_coordinator_without_anything_says_so() {
    let view = View { coordinator: "c".to_owned(), ..View::default() };
    let expected = [
        "brine top  c  CPU slots 0/0 used  q ends",
        "",
        "no agent",
        "",
        "no experiment",
        "",
        "no running trial",
        "",
    ];
    assert_eq!(texts(&view, 100, 40), expected);
}

#[test]
fn a_lost_coordinator_is_an_alarm_above_the_old_numbers() {
    let view = View { lost: "the connection broke".to_owned(), ..view() };
    let lines = lines(&view, 100, 40);
    assert_eq!(lines[1], Line::new("no answer: the connection broke", Tone::Alarm));
    assert_eq!(lines.len(), 15);
}

#[test]
fn a_frame_fits_into_a_small_terminal_and_counts_what_it_leaves_out() {
    let mut view = view();
    view.trials = vec![view.trials[0].clone(); 500];
    view.agents = vec![view.agents[0].clone(); 50];
    view.agents[0].host = "a-host-with-a-very-long-name-of-a-cloud".repeat(2);
    for (width, height) in [(60, 24), (80, 24), (200, 60)] {
        let texts = texts(&view, width, height);
        assert!(texts.len() <= height, "{} lines on {height}", texts.len());
        let widest = texts.iter().map(|text| text.chars().count()).max();
        assert!(widest <= Some(width), "{widest:?} on {width}: {texts:#?}");
        let shown = height / AGENTS_SHARE;
        assert!(texts.contains(&format!("and {} agents more", 50 - shown)), "{texts:#?}");
        assert!(texts.iter().any(|text| text.ends_with(" running trials more")), "{texts:#?}");
    }
}
