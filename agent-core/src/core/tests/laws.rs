//! Laws that hold whatever arrives in whatever order.

use super::*;

/// Any order of any messages keeps the laws; the seeds are fixed, so a failure repeats.
#[test]
fn the_laws_hold_under_random_messages() {
    for seed in 0..300_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut lab = Lab::connected();
        for _ in 0..120 {
            lab.now = lab.now.plus_ms(random.below(3_000));
            let input = random.input(&mut lab);
            lab.put(input);
        }
    }
}

/// A small generator (xorshift64), so that the test needs no crate.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn key(&mut self) -> AttemptKey {
        let trial = ["a", "b", "c"][self.below(3) as usize];
        key(trial, 1 + self.below(3) as u32)
    }

    fn input(&mut self, lab: &mut Lab) -> Input {
        match self.below(10) {
            0 => {
                lab.started_once.clear();
                let (hello_sent, heeds_withdrawn) = (lab.now, true);
                Input::Connected { hello_sent, lease_ttl_ms: TTL_MS, heeds_withdrawn }
            }
            1 => Input::Disconnected,
            2 | 3 => {
                let mut leases: Vec<Lease> = Vec::new();
                for trial in ["a", "b", "c"] {
                    if self.below(2) == 0 {
                        let (attempt, cpu) = (1 + self.below(3) as u32, self.below(3) as u32);
                        let mut lease = lease(trial, attempt, cpu);
                        // Some fail on a GPU, whose word is awaited.
                        lease.devices.gpus = if cpu == 2 { vec![0] } else { Vec::new() };
                        leases.push(lease);
                    }
                }
                let unreadable = if self.below(5) == 0 {
                    vec![(key("d", 1 + self.below(2) as u32), "x".into())]
                } else {
                    Vec::new()
                };
                let (version, base) = (self.below(60), self.below(3) * 20);
                let dropped = if self.below(3) == 0 { vec![self.key()] } else { Vec::new() };
                Input::Assignment(Assignment { version, base, leases, dropped, unreadable })
            }
            4 | 5 => {
                let sequence = lab.report().sequence;
                let refused = if self.below(3) == 0 { vec![self.key()] } else { Vec::new() };
                Input::Reply { sequence: sequence.saturating_sub(self.below(3)), refused }
            }
            6 => Input::Started(self.key()),
            7 => Input::Saved(self.key(), checkpoint(self.below(50))),
            // It is lost seldom, because nothing can fail on it after that.
            8 => Input::Xid { gpu: 0, number: if self.below(12) == 0 { 79 } else { 48 } },
            _ => match lab.processes.keys().next().cloned() {
                Some(key) => Input::Exited { key, end: None, how: "ended".into() },
                None => Input::Tick,
            },
        }
    }
}
