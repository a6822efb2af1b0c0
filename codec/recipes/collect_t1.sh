#!/bin/sh
# collect_t1.sh - training text of the model T1 from the free packages installed on a Debian system.
#
#     sh codec/recipes/collect_t1.sh OUT CORPORA
#
# Writes OUT/prose.tar (manuals, documentation), OUT/code.tar (headers, scripts, modules),
# OUT/data.tar (HTML, XML, JSON, CSV, SQL) and OUT/manifest.tsv: package, version, SHA-256 of its
# copyright file, bytes taken. CORPORA holds text, structured and database archives; of the
# structured one only what has a stated licence. Only packages of the free section with a copyright
# file that names a licence are used; each gives at most CAP bytes to a kind, and a file's content
# is taken once. What is held out is decided by the trainer: CRC32 of the path, mod 20 == 7.
set -eu
export LC_ALL=C
out=$1 corpora=$2
CAP=${CAP:-6000000} # bytes of one package in one kind
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$out/work
rm -rf "$work"
mkdir -p "$work/prose" "$work/code" "$work/data"

# Packages that may be used: name, version, hash of the copyright file.
dpkg-query -W -f '${Package}\t${Version}\t${Section}\t${db:Status-Abbrev}\n' |
    awk -F '\t' '$4 ~ /^ii/ && $3 !~ /^(non-free|contrib)/ && $1 !~ /^(google-|kube)/ {
        print $1 "\t" $2 }' | sort -u > "$work/installed"
while IFS='	' read -r name version; do
    licence=/usr/share/doc/$name/copyright
    [ -f "$licence" ] || continue
    grep -qE 'GPL|MIT|BSD|Apache|Expat|Artistic|ISC|[Pp]ublic [Dd]omain|zlib|PSF|MPL|Boost|Permission is' \
        "$licence" || continue
    printf '%s\t%s\t%s\n' "$name" "$version" "$(sha256sum < "$licence" | cut -c1-64)"
done < "$work/installed" > "$work/packages"

# Their files by kind, smaller packages' whole, larger ones' up to the cap.
cut -f1 "$work/packages" | while read -r name; do
    for list in "/var/lib/dpkg/info/$name.list" /var/lib/dpkg/info/"$name":*.list; do
        if [ -f "$list" ]; then sed "s#^#$name	#" "$list"; fi
    done
done | awk -F '\t' '
    function kind(p) {
        if (p ~ /\/(changelog|copyright|NEWS|ChangeLog)[^\/]*$/) return ""
        if (p ~ /^\/usr\/share\/man\/man[1-9]\// || p ~ /^\/usr\/share\/info\/.*info/) return "prose"
        if (p ~ /^\/usr\/share\/man\/(de|fr|es|it|pl|ru|pt_BR|nl)\/man[1-9]\//) return "prose"
        if (p ~ /\.(html?|xml|json|csv|sql|svg|xsd|xsl|rng|yaml|yml|toml|ui|tsv|desktop)(\.gz)?$/)
            return "data"
        if (p ~ /^\/usr\/share\/doc\/.*(README|TODO|FAQ|AUTHORS|\.txt|\.md|\.rst|\.texi|\.pod)(\.gz)?$/)
            return "prose"
        if (p ~ /\.(h|hh|hpp|hxx|c|cc|cpp|py|pm|pl|pod|sh|cmake|js|java|lua|rb|go|rs|ads|adb|pp|pas|el|tcl|awk|m4|f90|cu|s|S|tcc|vim|ac|am|mk|scm)(\.gz)?$/)
            return "code"
        if (p ~ /^\/usr\/include\/.*\/[A-Za-z_]+$/) return "code"
        return ""
    }
    { k = kind($2); if (k != "") print k "\t" $1 "\t" $2 }' | sort -u > "$work/candidates"
cut -f3 "$work/candidates" | tr '\n' '\0' |
    xargs -0 sh -c 'for f; do if [ -f "$f" ] && [ ! -h "$f" ]; then echo "$f"; fi; done' sh |
    tr '\n' '\0' | xargs -0 sha256sum | sed 's/  /\t/' > "$work/hashes"
tr '\n' '\0' < "$work/hashes" | xargs -0 -n 500 sh -c 'for l; do printf "%s\n" "${l#*	}"; done' sh |
    tr '\n' '\0' | xargs -0 stat -c '%s	%n' > "$work/sizes"
awk -F '\t' -v cap="$CAP" -v all="$work/taken" '
    FILENAME ~ /hashes$/ { hash[$2] = $1; next }
    FILENAME ~ /sizes$/ { size[$2] = $1; next }
    !($3 in hash) || seen[hash[$3]] || size[$3] > 2000000 || size[$3] < 200 { next }
    { n = size[$3] * ($3 ~ /\.gz$/ ? 3.5 : 1)
      if (used[$1, $2] + n > cap) next
      seen[hash[$3]] = 1; used[$1, $2] += n; print }' \
    "$work/hashes" "$work/sizes" "$work/candidates" > "$work/taken"

# Copies, unpacked; files with a zero byte are left out.
for kind in prose code data; do
    awk -F '\t' -v k="$kind" '$1 == k { print substr($3, 2) }' "$work/taken" |
        (cd / && tar cf - -T -) | tar xf - -C "$work/$kind"
    find "$work/$kind" -type f -name '*.gz' -print0 | xargs -0 -n 200 gunzip -f -q || true
done
find "$work/prose" "$work/code" "$work/data" -type f -print0 | xargs -0 grep -lPa '\x00' |
    tr '\n' '\0' | xargs -0 rm -f

# The corpora: those without a stated licence stay out.
tar xf "$corpora/text.tar.xz" -C "$work/prose"
tar xf "$corpora/database.tar.xz" -C "$work/data"
tar xf "$corpora/structured.tar.xz" -C "$work/data" --wildcards '*xml/*' '*html/*' '*csv/*' '*json/*'
find "$work/data" -path '*json/*' -type f ! -path '*usr*' ! -name '*movie*' ! -path '*tables*' \
    ! -path '*dev*' -exec rm -f {} +
find "$work" -type f -name '*.sqlite*' -exec rm -f {} +

awk -F '\t' 'FILENAME ~ /packages$/ { line[$1] = $0; next }
    FILENAME ~ /sizes$/ { size[$2] = $1; next }
    { bytes[$2] += size[$3] }
    END { for (n in bytes) print line[n] "\t" bytes[n] }' \
    "$work/packages" "$work/sizes" "$work/taken" | sort > "$out/manifest.tsv"
for kind in prose code data; do
    (cd "$work/$kind" && find . -type f | sed 's#^\./##' | sort |
        tar cf "$out/$kind.tar" --owner=0 --group=0 --mtime=@0 -T -)
    echo "$kind: $(find "$work/$kind" -type f | wc -l) files, $(stat -c %s "$out/$kind.tar") bytes"
done
