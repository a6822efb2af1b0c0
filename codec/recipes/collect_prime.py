#!/usr/bin/env python3
"""collect_prime.py - samples for codec/models/prime.vzm from the free packages of a Debian system.

    python3 codec/recipes/collect_prime.py OUT CORPORA
    vzip train --texts OUT --name prime --id 1 -o codec/models/prime.vzm

Writes for each text of the model OUT/NAME.bin, samples one after the other, and OUT/NAME.sizes; the
held-out files as OUT/held/KIND-NN; OUT/manifest.tsv: package, version, bytes offered for training, licences.
CORPORA holds the text, database and structured archives, of which only what has a stated licence is
taken. The model is part of the library, so its texts come only from files under licences without conditions
on the whole work (BSD, MIT, Apache, public domain and their like): no package whose copyright file names
a GPL, LGPL, MPL, CC BY-SA or similar for what it installs. Packages are either for training or held out (CRC32 of the name mod 5 == 1); a file whose path has
CRC32 mod 20 == 7 is never trained on, as everywhere in this project. Lines with names and addresses
of people are left out.
"""
import glob
import gzip
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
import time
import zlib

LICENCE = re.compile(rb'GPL|MIT|BSD|Apache|Expat|Artistic|ISC|[Pp]ublic [Dd]omain|zlib|PSF|MPL|Boost|'
                     rb'Permission is')
RECIPROCAL = re.compile(
    rb'GPL|GNU (?:Lesser |Library |Affero )?General Public|\bMPL|Mozilla Public|CDDL|\bEPL|Eclipse Public|'
    rb'CC-BY|ShareAlike|CeCILL|\bQPL\b|\bOFL|GFDL|GNU Free Doc|Sleepycat|SIL-|[Nn]on-?commercial')
PERMISSIVE_CORPORA = ('corpora/db/Chinook', 'corpora/text/genesis/english')  # MIT, public domain
KINDS = {
    '.md': 'markdown', '.rst': 'markdown', '.txt': 'text', '.html': 'html', '.htm': 'html',
    '.h': 'header', '.hpp': 'header', '.hh': 'header', '.c': 'c', '.cc': 'c', '.cpp': 'c',
    '.py': 'python', '.pm': 'perl', '.pl': 'perl', '.sh': 'shell', '.js': 'js', '.css': 'css',
    '.json': 'json', '.xml': 'xml', '.svg': 'svg', '.ui': 'xml', '.xsl': 'xml', '.csv': 'csv',
    '.sql': 'sql', '.ini': 'config', '.conf': 'config', '.cfg': 'config', '.yaml': 'config',
    '.yml': 'config', '.desktop': 'config', '.service': 'config', '.toml': 'config', '.mk': 'make',
    '.am': 'make', '.cmake': 'cmake', '.ac': 'make', '.m4': 'make', '.vim': 'vim', '.tcl': 'tcl',
    '.mo': 'mo', '.o': 'object', '.so': 'elf', '.gresource': 'binary', '.qm': 'binary',
    '.class': 'binary'}
TEXTS = {  # of the model
    'prose': ['man', 'markdown', 'text'], 'c': ['header', 'c'],
    'script': ['python', 'perl', 'shell', 'vim', 'tcl', 'make', 'cmake'],
    'web': ['html', 'xml', 'svg', 'css', 'js'], 'data': ['json', 'csv', 'sql', 'config', 'log'],
    'binary': ['elf', 'object', 'binary', 'mo']}
BINARY = TEXTS['binary']
# Bytes of a kind in the samples; 1.2 MB where nothing is said.
MOST = {'man': 3e6, 'markdown': 1.4e6, 'text': 2.5e6, 'header': 5e6, 'c': 1e6, 'python': 3e6,
        'perl': 1.5e6, 'html': 2e6, 'xml': 1.5e6, 'csv': 0.8e6, 'elf': 6e6, 'object': 1e6}
COMMON = {'man', 'header', 'python', 'perl', 'text', 'html', 'c', 'js'}
train, held, taken, seen, used = {}, {}, {}, set(), {}


def crc(text):
    return zlib.crc32(text.encode())


def packages():
    query = ['dpkg-query', '-W', '-f', '${Package}\t${Version}\t${Section}\t${db:Status-Abbrev}\n']
    out = {}
    for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines():
        name, version, section, status = line.split('\t')
        if not status.startswith('ii') or section.startswith(('non-free', 'contrib')):
            continue
        if name.startswith(('google-', 'kube')):
            continue
        try:
            with open(f'/usr/share/doc/{name}/copyright', 'rb') as f:
                if LICENCE.search(f.read()):
                    out[name] = version
        except OSError:
            pass
    return out


def licences(name):
    """What the copyright file of a package names."""
    try:
        with open(f'/usr/share/doc/{name}/copyright', 'rb') as f:
            text = f.read()
    except OSError:
        return 'as the corpus states' if name.startswith('corpora') else 'own'
    found = re.findall(rb'^License: *([^ \n]+)', text, re.M) or LICENCE.findall(text)
    names = sorted({x.decode(errors='replace').rstrip(',') for x in found})
    return ' '.join(names[:8])


def permissive(name):
    """That nothing which the package installs is under a reciprocal licence."""
    if name == 'generator' or name.startswith(PERMISSIVE_CORPORA):
        return True
    try:
        with open(f'/usr/share/doc/{name}/copyright', 'rb') as f:
            text = f.read()
    except OSError:
        return False
    if not re.search(rb'^License:', text, re.M):
        return not RECIPROCAL.search(text)
    for part in re.split(rb'\n\s*\n', text):
        files = re.search(rb'^Files:(.*?)(?=^\w)', part, re.M | re.S)
        if not files or all(x.startswith(b'debian/') for x in files.group(1).split()):
            continue  # of the packaging
        licence = re.search(rb'^License: *(.*)', part, re.M)
        if not licence or RECIPROCAL.search(licence.group(1)):
            return False
    return True


def kind_of(path, data):
    end, base = os.path.splitext(path)[1].lower(), os.path.basename(path)
    if data[:4] == b'\x7fELF':
        return 'object' if end == '.o' else 'elf'
    if end == '.mo':
        return 'mo'
    if b'\0' in data[:8192]:
        return 'binary' if end in ('.gresource', '.qm', '.class') else None
    if data[:2] == b'#!':
        for word, kind in ((b'python', 'python'), (b'perl', 'perl'), (b'sh', 'shell')):
            if word in data[:100].split(b'\n')[0]:
                return kind
    if re.search(r'/man/man\d/', path):
        return 'man'
    kind = KINDS.get(end)
    if kind:
        return None if kind in BINARY else kind
    if base.startswith('README') or base in ('TODO', 'FAQ'):
        return 'text'
    return 'header' if path.startswith('usr/include/') else None


def offer(path, data, package):
    """Decides for training, held out or neither."""
    kind = kind_of(path, data)
    if not kind or len(data) < 300 or zlib.crc32(data) in seen:
        return
    seen.add(zlib.crc32(data))
    never, corpus = crc(path) % 20 == 7, package.startswith('corpora')
    fits = 1000 <= len(data) <= 100000
    if not corpus and crc(package) % 5 == 1:
        if fits and (never or kind not in COMMON):
            held.setdefault(kind, []).append((path, data, package))
    elif never:
        if corpus and fits:
            held.setdefault(kind, []).append((path, data, package))
    elif len(data) <= 200000:
        n = used.get((package, kind), 0)
        if n + len(data) <= (4000000 if corpus else 250000):
            used[package, kind] = n + len(data)
            train.setdefault(kind, []).append((path, data, package))


def offer_package(name):
    paths = []
    for pattern in (f'/var/lib/dpkg/info/{name}.list', f'/var/lib/dpkg/info/{name}:*.list'):
        for file in glob.glob(pattern):
            with open(file, errors='replace') as f:
                paths += f.read().split('\n')
    paths.sort(key=lambda p: (crc(p), p))
    count = {}
    for path in paths:
        plain = path[:-3] if path.endswith('.gz') else path
        end = os.path.splitext(plain)[1].lower()
        if re.search(r'/(changelog|copyright|NEWS|ChangeLog)[^/]*$', path) or \
                re.search(r'/man/([^m/][^/]*)/man', path) or \
                '/locale/' in path and '/LC_MESSAGES/' not in path:
            continue
        if not (end in KINDS or '/man/man' in path or '/bin/' in path or '/sbin/' in path or
                '.so' in path or path.startswith('/usr/include/') or
                os.path.basename(path).startswith('README')):
            continue
        count[end] = count.get(end, 0) + 1
        try:
            if count[end] > 60 or os.path.islink(path) or not os.path.isfile(path) or \
                    os.path.getsize(path) > 300000:
                continue
            with open(path, 'rb') as f:
                data = f.read()
            offer(plain[1:], gzip.decompress(data) if plain != path else data, name)
        except (OSError, EOFError):
            continue


def offer_corpora(folder):
    for name in ('text', 'database', 'structured'):
        with tarfile.open(os.path.join(folder, name + '.tar.xz')) as tar:
            for m in tar:
                path = m.name.lstrip('./')
                if not m.isfile() or path.endswith('.sqlite') or m.size > 20e6:
                    continue
                if name == 'structured' and (
                        not any(x in path for x in ('xml/', 'html/', 'csv/', 'json/')) or
                        'json/' in path and 'movie' not in path):
                    continue  # logs and the other JSON have no stated licence
                data = tar.extractfile(m).read()
                rnd, source = random.Random(crc(path)), 'corpora/' + path
                if crc(path) % 20 == 7:
                    for i in range(0, min(len(data), 4000000), max(60000, len(data) // 4)):
                        part = data[i:i + rnd.choice([3000, 8000, 20000, 50000])]
                        part = part[part.find(b'\n') + 1 if i else 0:]
                        if len(part) >= 1000:
                            held.setdefault(kind_of(path, data) or 'text', []).append(
                                (f'{path}@{i}', part, source))
                elif len(data) > 190000:
                    for i in range(0, min(len(data), 4000000), 950000):
                        part = data[i:i + 60000]
                        offer(path.replace('.', f'.{i}.', 1), part[part.find(b'\n') + 1:], source)
                else:
                    offer(path, data, source)


def share_packages():
    """Kinds with few held-out files get some of the packages, or files of the only one."""
    for kind in sorted(train):
        out = held.setdefault(kind, [])
        if kind in BINARY + ['vim', 'tcl', 'cmake', 'make'] or len(out) >= 14:
            continue
        names = sorted({x[2] for x in train[kind]}, key=lambda p: (crc(p), p))
        for name in names:
            if len(out) >= 16:
                break
            mine = [x for x in train[kind] if x[2] == name and 1000 <= len(x[1]) <= 100000]
            if len(names) <= 4 or len(mine) > len(train[kind]) // 2:
                mine = [x for x in mine if crc(x[0]) % 6 == 1]
                gone = {x[0] for x in mine}
                train[kind] = [x for x in train[kind] if x[0] not in gone]
                out += mine
            else:
                out += mine[:8]
                train[kind] = [x for x in train[kind] if x[2] != name]


def log(rnd, words, hosts, style, lines):
    out, t = [], 1700000000 + rnd.randrange(10 ** 7)
    messages = [' '.join(rnd.choice(words) for _ in range(rnd.randrange(3, 9))) for _ in range(12)]
    for _ in range(lines):
        t += rnd.randrange(0, 40)
        g, message = time.gmtime(t), rnd.choice(messages).replace('#', str(rnd.randrange(1, 5000)))
        address = '10.0.%d.%d' % (rnd.randrange(4), rnd.randrange(30))
        if style == 0:
            out.append('%s - - [%s +0000] "%s /%s HTTP/1.1" %d %d "-" "Mozilla/5.0 (X11; Linux x86_64; '
                       'rv:%d.0) Gecko/20100101"' % (
                           address, time.strftime('%d/%b/%Y:%H:%M:%S', g),
                           rnd.choice(['GET', 'GET', 'GET', 'POST', 'HEAD']),
                           '/'.join(rnd.choice(words) for _ in range(rnd.randrange(1, 4))),
                           rnd.choice([200, 200, 200, 304, 404, 500]), rnd.randrange(200, 90000),
                           rnd.randrange(90, 130)))
        elif style == 1:
            out.append('%s %s %s[%d]: %s' % (
                time.strftime('%b %e %H:%M:%S', g), rnd.choice(hosts),
                rnd.choice(['sshd', 'systemd', 'cron', 'kernel']), rnd.randrange(100, 30000), message))
        elif style == 2:
            out.append('%s,%03d %-5s [pool-%d-thread-%d] %s - %s' % (
                time.strftime('%Y-%m-%d %H:%M:%S', g), rnd.randrange(1000),
                rnd.choice(['INFO', 'INFO', 'INFO', 'WARN', 'DEBUG', 'ERROR']), rnd.randrange(3),
                rnd.randrange(16), '.'.join(rnd.choice(words) for _ in range(3)), message))
        else:
            out.append('{"time":"%s.%03dZ","level":"%s","msg":"%s","service":"%s","ms":%d}' % (
                time.strftime('%Y-%m-%dT%H:%M:%S', g), rnd.randrange(1000),
                rnd.choice(['info', 'info', 'warn', 'error']), message, rnd.choice(hosts),
                rnd.randrange(1, 900)))
    return ('\n'.join(out) + '\n').encode()


def make_logs():
    """Held-out logs share nothing with those for training but the usual forms of a line."""
    words = ('connection session opened closed user started stopped failed accepted timeout request '
             'server service unit disk device error warning file not found retry # # loaded cache job '
             'task finished in ms key port client root index static images login api v1').split()
    other = ('order payment shipment queued sensor reading pump valve # # reset lease renewed peer '
             'replica elected snapshot written segment merged flushed worker idle catalogue price '
             'stock mailbox delivered deferred bounced volume mounted scrub battery fan').split()
    rnd = random.Random(5)
    train['log'] = [(f'log/{i}', log(rnd, words, ['web1', 'db', 'host', 'mail'], i % 4, 120),
                     'generator') for i in range(24)]
    rnd = random.Random(99)
    held['log'] = [(f'log/{i}', log(rnd, other, ['alpha', 'node-17', 'gate', 'edge03'], i % 4,
                                    rnd.choice([30, 80, 200, 500])), 'generator') for i in range(12)]


PERSON = re.compile(rb'[\w.]@\w|[Cc]opyright|\([Cc]\) |[Aa]uthor|[Mm]aintain|[Ww]ritten by|\xc2\xa9')
MAIL = re.compile(rb'<?[\w.+-]+@[\w.-]+>?')
FIELD = re.compile(rb'(Last-Translator|Language-Team|Copyright|Author|Written by|Report-Msgid-Bugs-To|'
                   rb'PO-Revision-Date|POT-Creation-Date)[^\n\0]*')


def without_people(kind, data):
    if kind in BINARY:
        return MAIL.sub(b'', FIELD.sub(lambda m: m.group(1), data))
    return b'\n'.join(line for line in data.split(b'\n') if not PERSON.search(line) or
                      b'Free Software Foundation' in line and b'@' not in line)


def code_of(elf):
    """Executable sections of an x86-64 file."""
    if elf[4] != 2 or elf[5] != 1 or struct.unpack_from('<H', elf, 18)[0] != 62:
        return b''
    at, = struct.unpack_from('<Q', elf, 40)
    size, count = struct.unpack_from('<HH', elf, 58)
    out = b''
    for i in range(count):
        try:
            _, kind, flags, _, start, length = struct.unpack_from('<IIQQQQ', elf, at + i * size)
        except struct.error:
            return out
        if kind == 1 and flags & 4:
            out += elf[start:start + length]
    return out


def write_samples(out, name, samples):
    with open(os.path.join(out, name + '.bin'), 'wb') as f:
        f.write(b''.join(samples))
    with open(os.path.join(out, name + '.sizes'), 'w') as f:
        f.write(''.join(f'{len(s)}\n' for s in samples))


def write_texts(out):
    for kind in train:
        train[kind] = [x for x in train[kind] if permissive(x[2])]
    for name, kinds in TEXTS.items():
        rnd, samples = random.Random(11), []
        for kind in kinds:
            files, n = list(train.get(kind, [])), 0
            rnd.shuffle(files)
            for _, data, package in files:
                data = without_people(kind, data)
                if len(data) >= 200 and n + len(data) <= MOST.get(kind, 1.2e6):
                    n += len(data)
                    samples.append(data)
                    taken[package] = taken.get(package, 0) + len(data)
        rnd.shuffle(samples)
        write_samples(out, name, samples)
    files, samples, n = train['elf'] + train['object'], [], 0
    random.Random(2).shuffle(files)
    for _, data, package in files:
        code = code_of(data)[:60000]
        if len(code) >= 500 and n < 4e6:
            samples.append(code)
            n += len(code)
            taken[package] = taken.get(package, 0) + len(code)
    write_samples(out, 'x86', samples)


def write_held(out):
    """At most 18 files of a kind, spread over packages; the first four of each served to choose
    sizes, the others are for the table."""
    most = {'elf': 18, 'object': 8, 'mo': 10, 'tcl': 5, 'vim': 8, 'binary': 0}
    os.makedirs(os.path.join(out, 'held'), exist_ok=True)
    for kind, files in sorted(held.items()):
        of = {}
        for x in sorted(files, key=lambda x: (crc(x[0]), x[0])):
            of.setdefault(x[2], []).append(x)
        order = []
        while any(of.values()):
            order += [of[p].pop() for p in sorted(of) if of[p]]
        order = [x for x in order if 1000 <= len(x[1]) <= 100000][:most.get(kind, 18) + 4]
        for i, (_, data, _) in enumerate(order):
            with open(os.path.join(out, 'held', f'{kind}-{i:02d}'), 'wb') as f:
                f.write(data)


def main():
    out, corpora = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    installed = packages()
    for name in sorted(installed, key=lambda p: (crc(p), p)):
        offer_package(name)
    offer_corpora(corpora)
    share_packages()
    make_logs()
    write_texts(out)
    write_held(out)
    with open(os.path.join(out, 'manifest.tsv'), 'w') as f:
        for name in sorted(taken):
            f.write(f'{name}\t{installed.get(name, "-")}\t{taken[name]}\t{licences(name)}\n')


if __name__ == '__main__':
    main()
