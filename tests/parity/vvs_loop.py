#!/usr/bin/env python3
"""Writes vvs_loop.txt: step logs of the VVS loop (arXiv 2511.13587) over a network whose logits are
a hash of the tokens in front. Restated from the method, without the C code: test_ar_vvs.c
compares ar_decode with it. Draws are greedy; the random selector alone draws numbers, from Philox4x32-10.

    line "setting": interval threshold selector truncates strict keeps_stale depth top_k nodes salt
                    stale_verify stale_skip seed steps
    a line a step:  skipped gamma accepted length chain
    a line of all tokens
"""
import math
import os

V, M, MASK = 64, 64, (1 << 64) - 1
SCALE, BLUR, WIDTH, DECAY, STRIDE, WARM_UP = 2.0, 0.7, 8, 0.9, 2, 5
SHUFFLE = 2  # the stream of random numbers that selectors draw from


def mix(x):
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def after(h, token):
    return mix((h * 31 + token + 1) & MASK)


def number(h, v):
    x = mix(h ^ ((v + 1) * 0xD6E8FEB86659FD93 & MASK))
    return (sum(x >> 16 * i & 0xFFFF for i in range(4)) / 65536 - 2) * 1.7


def philox(seed, stream, sample, block):
    """Philox4x32-10 (Salmon et al. 2011): four numbers of 32 bits."""
    x, k = [block & 0xFFFFFFFF, block >> 32, sample, stream], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [b >> 32 ^ x[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ x[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return x


def prefix(h, tokens):
    for t in tokens:
        h = after(h, t)
    return h


class Net:
    def __init__(self, salt):
        self.condition = mix((salt + 0x9E3779B97F4A7C15) & MASK)

    def target(self, tokens):
        """What follows the tokens, greedily."""
        h = prefix(self.condition, tokens)
        return max(range(V), key=lambda v: number(h, v))

    def draft(self, pairs, path):
        """log q behind the pairs (token, place of its feature) and a path of the tree."""
        h = prefix(self.condition, [t for t, _ in pairs])
        g = self.condition ^ 0x77
        for i, (t, f) in enumerate(pairs):
            g = after(after(g, t), i - 1 - f)
        h, g = prefix(h, path), prefix(g, path)
        x = [SCALE * number(h, v) + BLUR * number(g ^ 0x5555, v) for v in range(V)]
        top = max(x)
        total = math.log(sum(math.exp(a - top) for a in x))
        return [a - top - total for a in x]


def grow(net, pairs, root, depth, top_k, nodes):
    """EAGLE-2: list of (token, parent, rank, score, path of tokens); node 0 is the root."""
    pool = []

    def add(parent, score, path):
        q = net.draft(pairs, path)
        for rank, v in enumerate(sorted(range(V), key=lambda v: -q[v])[:top_k]):
            pool.append((v, parent, rank, score + q[v], path + [v]))

    if depth > 0:
        add(-1, 0.0, [])
    first = 0
    for _ in range(depth - 1):
        level = range(first, len(pool))
        first = len(pool)
        for c in sorted(level, key=lambda c: (-pool[c][3], c))[:top_k]:
            add(c, pool[c][3], pool[c][4])
    kept = sorted(sorted(range(len(pool)), key=lambda c: (-pool[c][3], c))[: nodes - 1])
    number_of = {c: i + 1 for i, c in enumerate(kept)}
    number_of[-1] = 0
    tree = [(root, -1, 0, 0.0, [])]
    return tree + [(pool[c][0], number_of[pool[c][1]]) + pool[c][2:] for c in kept]


def paths_of(tree):
    parents = {node[1] for node in tree}
    rows = []
    for leaf in range(len(tree)):
        if leaf in parents:
            continue
        row, i = [], leaf
        while i >= 0:
            row.append(i)
            i = tree[i][1]
        rows.append(row[::-1])
    return sorted(rows, key=lambda row: row + [10**6] * (64 - len(row)))


def codebook():
    return [[number(4711, c * WIDTH + j) for j in range(WIDTH)] for c in range(V)]


def similarity(tree, paths, book):
    rows = [[tree[i][0] for i in p[1:]] for p in paths[::STRIDE]]
    if len(rows) < 2:
        return 0.0
    longest = max(map(len, rows))
    weight = [DECAY**i for i in range(longest)]
    total, pairs = 0.0, 0
    for a in range(len(rows)):
        for b in range(a + 1, len(rows)):
            pairs += 1
            for i, (x, y) in enumerate(zip(rows[a], rows[b])):
                u, w = book[x], book[y]
                dot = sum(s * t for s, t in zip(u, w))
                norm = math.sqrt(sum(s * s for s in u) * sum(t * t for t in w))
                total += weight[i] / sum(weight) * dot / norm
    return total / pairs


def select(tree, paths, selector, number):
    if selector == 0:  # any path, all alike
        return paths[number * len(paths) >> 32]
    if selector == 1:  # the path of the most probable leaf
        return max(paths, key=lambda p: tree[p[-1]][3])
    for p in paths:    # first children all the way
        if all(tree[i][2] == 0 for i in p[1:]):
            return p
    return paths[0]


def stand_ins(features, stale, missing):
    """The last of the features that are `stale` places old, in order; too few: the last of them again."""
    old = features[: max(len(features) - stale, 1)][-missing:]
    return old + old[-1:] * (missing - len(old))


class Loop:
    def __init__(self, interval, threshold, selector, truncates, strict, keeps, depth, top_k, nodes,
                 salt, stale_verify, stale_skip, seed):
        self.__dict__.update(locals())
        self.net, self.book = Net(salt), codebook()
        self.log = []

    def expand(self, pairs, known, n):
        return grow(self.net, pairs, known[n], min(self.depth, M - n - 1), self.top_k, self.nodes)

    def skips(self, step, n, tree, paths, last_skip):
        if last_skip or n <= WARM_UP or len(tree) < 2:
            return False
        if self.interval:
            return step % self.interval == 1
        return similarity(tree, paths, self.book) >= self.threshold

    def check(self, known, n, chain):
        """Strict: how many tokens of the chain stay and the target's own next, or None."""
        for i in range(1, chain + 1):
            own = self.net.target(known[: n - chain + i])
            if own != known[n - chain + i]:
                return i, own
        return None

    def feed(self, pairs, known, n, features):
        """The pairs up to the root behind a verified step; features: those of the steps in front."""
        missing, fresh = n + 1 - len(pairs), self.stale_verify < 0 or not features
        places = range(len(pairs) - 1, n) if fresh else stand_ins(features, self.stale_verify, missing)
        return pairs + list(zip(known[len(pairs):], places))

    def verify(self, known, n, chain, tree):
        """known has the root last. Returns tokens, committed length, accepted nodes."""
        cut = self.check(known, n, chain) if self.strict else None
        if cut:
            n = n - chain + cut[0]
            return known[:n] + [cut[1]], n, -1
        if n + 1 >= M:
            return known, n, 0
        node, accepted = 0, -1
        while node >= 0:
            token = self.net.target(known[: n + 1])
            known, n, accepted = known[: n + 1] + [token], n + 1, accepted + 1
            node = next((k for k, c in enumerate(tree) if c[1] == node and c[0] == token), -1)
        return known, n, accepted

    def run(self):
        known, n, chain, features, step, last_skip = [self.net.target([])], 0, 0, [], 0, False
        pairs = [(known[0], -1)]
        tree = self.expand(pairs, known, n)
        while n + 1 < M or (chain and self.strict):
            paths = paths_of(tree)
            if self.skips(step, n, tree, paths, last_skip):
                path = select(tree, paths, self.selector, philox(self.seed, SHUFFLE, 0, step // 4)[step % 4])
                mean = sum(map(len, paths)) // len(paths)
                gamma = min(len(path), mean) if self.truncates else len(path)
                taken = [tree[i][0] for i in path[1:gamma]]
                pairs += zip(taken, stand_ins(features, self.stale_skip, len(taken)))
                known, n, chain = known + taken, n + gamma - 1, gamma - 1
                self.log.append((1, gamma, 0, n, chain))
                last_skip = True
            else:
                cached = n - chain
                known, n, accepted = self.verify(known, n, chain, tree)
                if chain and not self.keeps and self.stale_verify < 0:
                    pairs = pairs[: cached + 1]
                pairs = self.feed(pairs[: n] if accepted < 0 else pairs, known, n, features)
                features += range(cached, n)
                self.log.append((0, 0, accepted, n, chain))
                chain, last_skip = 0, accepted < 0
            if n + 1 < M:
                tree = self.expand(pairs, known, n)
            else:
                tree = [(known[n], -1, 0, 0.0, [])]
            step += 1
        return known[:M]  # a root behind the end is not part of the picture


def settings():
    """First those of the method itself, then every selector with every staleness."""
    for k in range(12):
        yield ((2, 3, 4, 0)[k % 4], 0.1 * (k % 3) - 0.1, 1 + k % 2, int(k % 5 != 0), int(k // 4 == 1),
               int(k // 2 % 2), 2 + k % 3, 3 + k % 2, 10 + k, 100 + k, -1, 0, 1)
    stale = ((-1, 0), (-1, 1), (-1, 3), (0, 0), (2, 0), (1, 4), (0, 60))
    for k in range(21):
        yield ((0, 2, 3, 4, 5)[k % 5], 0.1 * (k % 2) - 0.1, k % 3, int(k % 4 != 3), int(k % 4 == 1),
               int(k % 8 > 4), 2 + k % 3, 3 + k % 2, 10 + k, 200 + k) + stale[k % 7] + (
                   (k + 1) * 0x9E3779B97F4A7C15 & MASK,)


def main():
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vvs_loop.txt")
    with open(out, "w") as f:
        for args in settings():
            loop = Loop(*args)
            tokens = loop.run()
            f.write("setting %d %g %d %d %d %d %d %d %d %d %d %d %d %d\n" % (args + (len(loop.log),)))
            for line in loop.log:
                f.write("%d %d %d %d %d\n" % line)
            f.write(" ".join(map(str, tokens)) + "\n")


if __name__ == "__main__":
    main()
