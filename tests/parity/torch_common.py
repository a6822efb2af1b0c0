"""Shared by the comparisons of speed with PyTorch (ar_torch.py, bench_torch.py): arguments, runs of fovea in turn with
those of the peers, ratios, output. Each of the scripts has its network and what it times.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile
import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def arguments(description, model):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--fovea", required=True, help="program")
    p.add_argument("--file", help="random weights made by fovea new (default: made for this run)")
    p.add_argument("--model", default=model)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--precision", choices=tuple(DTYPES), action="append", help="default: both")
    p.add_argument("--json", action="store_true", help="one object on stdout")
    return p


def fovea_json(a, verb, options):
    """What `fovea bench VERB FILE OPTIONS` measured; of another thread count it is worth nothing."""
    command = [a.fovea, "bench", verb, a.file, "--threads", str(a.threads), "--json"] + [str(o) for o in options]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if result["threads"] != a.threads:
        sys.exit(f"fovea ran {result['threads']} threads")
    return result


def alternate(a, precision, peers, run_peer, run_fovea):
    """Rounds of all peers and of fovea in turn: what run_fovea gave in each. Peers keep their `times`."""
    ours = []
    for i in range(a.rounds):
        for peer in peers:
            peer.times.append(run_peer(peer))
        ours.append(run_fovea())
        print(f"{precision}, round {i + 1} of {a.rounds}", file=sys.stderr)
    return ours


def ratios(peers, seconds):
    """Peers by name against fovea's seconds of the same rounds."""
    out = {}
    for name, p in peers.items():
        r = [t / o for t, o in zip(p.times, seconds)]
        out[name] = {"seconds": statistics.median(p.times), "ratio": statistics.median(r), "least": min(r),
                     "most": max(r)}
    return out


def show(line, name, speed, end=""):
    """A line of text; speed: seconds as people read them."""
    print(f"{name}  fovea {speed(line['fovea_seconds'])}", end="")
    for k, p in line["peers"].items():
        print(f"; {k} {speed(p['seconds'])}, ratio {p['ratio']:.3f} [{p['least']:.3f} {p['most']:.3f}]", end="")
    print(end, flush=True)


def main(a, about, head, compare, show_line):
    """compare(precision) -> lines of the table, show_line prints one; about: what JSON says of the run."""
    torch.set_num_threads(a.threads)
    result = {"torch": torch.__version__, "threads": a.threads, "model": a.model, "rounds": a.rounds, **about,
              "cases": []}
    with tempfile.TemporaryDirectory() as folder:
        if not a.file:
            a.file = os.path.join(folder, "model.safetensors")
            subprocess.run([a.fovea, "new", a.model, "-o", a.file, "-q"], check=True)
        if not a.json:
            print(f"PyTorch {torch.__version__}, {a.threads} threads, {a.model}, {head}", flush=True)
        for precision in a.precision or DTYPES:
            for line in compare(precision):
                result["cases"].append(line)
                if not a.json:
                    show_line(line)
    if a.json:
        print(json.dumps(result, indent=2))
