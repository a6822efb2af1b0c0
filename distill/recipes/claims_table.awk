# claims_table.awk - the table of claims.sh from its CSV: mean and standard deviation over the seeds.
BEGIN {
    FS = ","
    label["none"] = "no teacher"
    label["out"] = "OutKD"
    label["feat"] = "OutKD + FeatKD"
    label["lift"] = "LIFT + FeatKD"
    label["place"] = "LIFT + PLACE + FeatKD"
    label["alone"] = "LIFT + PLACE, no FeatKD"
    label["linear"] = "w linear"
    label["cosine"] = "w cosine"
    label["k8"] = "K = 8"
    label["k64"] = "K = 64"
    label["feat-middle"] = "OutKD + FeatKD, middle teacher"
    label["feat-weak"] = "OutKD + FeatKD, weak teacher"
    label["place-middle"] = "LIFT + PLACE + FeatKD, middle teacher"
    label["place-weak"] = "LIFT + PLACE + FeatKD, weak teacher"
    label["uniform"] = "uniform"
    label["shortgpt"] = "block influence (ShortGPT)"
    label["out-l0.5"] = "OutKD, l_kd = 0.5"
    label["out-l2"] = "OutKD, l_kd = 2"
    label["out-l4"] = "OutKD, l_kd = 4"
    label["place-w0"] = "LIFT + PLACE + FeatKD, w = 0"
    label["place-w1"] = "LIFT + PLACE + FeatKD, w = 1"
    label["place-l2"] = "LIFT + PLACE + FeatKD, coarse = l2"
    label["learned"] = "learned (TinyFusion)"
}
FNR > 1 && NF >= 7 {
    n[$1]++
    if ($8 && index(" " blocks[$1] ",", " " $8 ",") == 0) # all that were chosen, by seed
        blocks[$1] = blocks[$1] (blocks[$1] ? ", " : "") $8
    for (k = 3; k <= 6; k++) {
        sum[$1, k] += $k
        seen[$1, k, n[$1]] = $k
    }
}
# Mean and deviation (over n - 1) of a column; of one student without; of what was not measured nothing.
function cell(run, k, digits,    i, m, v) {
    for (i = 1; i <= n[run]; i++) if (seen[run, k, i] == "") return "-"
    m = sum[run, k] / n[run]
    if (n[run] < 2) return sprintf("%." digits "f", m)
    for (i = 1; i <= n[run]; i++) v += (seen[run, k, i] - m) ^ 2
    return sprintf("%." digits "f ± %." digits "f", m, sqrt(v / (n[run] - 1)))
}
function row(run, name) {
    if (!n[run]) return
    if (blocks[run]) name = name " (" blocks[run] ")"
    printf "| %s | %d | %s | %s | %s | %s |\n", name, n[run], cell(run, 3, 4), cell(run, 4, 4),
        cell(run, 5, 3), cell(run, 6, 3)
}
function part(title, runs, first,    list, i, count) {
    count = split(runs, list, " ")
    printf "| **%s** | | | | | |\n", title
    for (i = 1; i <= count; i++) row(list[i], i == 1 && first ? first : label[list[i]])
}
END {
    print "| student | seeds | held-out error | distance to the teacher | Fréchet distance | recognised |"
    print "|---|---|---|---|---|---|"
    if (n["uniform"]) {
        part("blocks that stay", "uniform shortgpt learned", "")
        exit
    }
    if (n["out-l2"]) {
        part("controls", "out-l0.5 out out-l2 out-l4 place-w0 place place-w1 place-l2", "")
        exit
    }
    part("loss", "none out feat lift place alone", "")
    part("w of LIFT + PLACE", "place cosine linear", "w adaptive")
    part("teacher", "feat feat-middle feat-weak", "OutKD + FeatKD, strong teacher")
    row("place", "LIFT + PLACE + FeatKD, strong teacher")
    row("place-middle", label["place-middle"])
    row("place-weak", label["place-weak"])
    printf "| **K of PLACE** | | | | | |\n"
    row("k8", label["k8"])
    row("place", "K = 16")
    row("k64", label["k64"])
}
