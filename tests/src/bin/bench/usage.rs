//! What a process and the machine have used, from /proc (see proc(5)).

use anyhow::{Context, Result};

/// Clock ticks per second in /proc: a constant of Linux' interface to programs (USER_HZ), whatever the kernel uses.
const TICKS: f64 = 100.0;

/// CPU seconds of a process so far, user and system, and its highest resident memory in bytes.
pub(crate) fn of_process(id: u32) -> Result<(f64, u64)> {
    let read = |file: &str| {
        let path = format!("/proc/{id}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("{path}: the process has ended"))
    };
    let seconds = cpu_seconds(&read("stat")?).context("/proc/…/stat has another shape than proc(5) says")?;
    let peak = peak_bytes(&read("status")?).context("/proc/…/status names no VmHWM")?;
    Ok((seconds, peak))
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may hold anything; utime is the fourteenth.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS)
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// CPU seconds of the whole machine so far in which it did something.
pub(crate) fn of_machine() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    busy_seconds(&stat).context("/proc/stat has another shape than proc(5) says")
}

fn busy_seconds(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already.
    let busy = ticks.get(..3)?.iter().sum::<u64>() + ticks.get(5..8)?.iter().sum::<u64>();
    Some(busy as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_does_not_disturb() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 900 0 3 0 250 50 0 0 20 0 8 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\n"), Some(2 << 20));
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn waiting_is_not_work() {
        assert_eq!(busy_seconds("cpu  100 200 300 9999 9999 100 100 200 7 7\ncpu0 1"), Some(10.0));
    }

    #[test]
    fn this_process_has_used_something() {
        let (_, peak) = of_process(std::process::id()).unwrap();
        assert!(peak > 1 << 20);
        assert!(of_machine().unwrap() > 0.0);
    }
}
