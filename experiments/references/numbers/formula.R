## tests/test_formula.py (bars) and tests/test_frame.py (names of columns): text, to be read
suppressPackageStartupMessages(library(lme4))
side <- function(e) {
  t <- terms(eval(call("~", e))); labels <- attr(t, "term.labels")
  paste(c(if (attr(t, "intercept")) "1" else "0", labels), collapse = " + ")
}
HERE <- dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
keys <- function(file, name) {  # keys of a dictionary in a test, in their order
  lines <- readLines(file.path(HERE, "..", "..", "..", "tests", file))
  block <- lines[seq(grep(paste0("^", name, " = \\{"), lines) + 1, length(lines))]
  block <- block[seq_len(grep("^\\}", block)[1] - 1)]
  sub('^ *"([^"]*)": .*', "\\1", grep('^ *"[^"]*": ', block, value = TRUE))
}
for (text in keys("test_formula.py", "LME4_BARS")) {
  bars <- findbars(expandDoubleVerts(as.formula(text)))
  cat(text, ":", sapply(bars, function(b) paste0("(", side(b[[2]]), " | ", deparse(b[[3]]), ")")), "\n")
}
d <- expand.grid(a = c("a1", "a2", "a3"), b = c("b1", "b2"), i = 1:5)
d$x <- seq_len(nrow(d)) + 0.5; d$z <- rev(d$x)^2
for (text in keys("test_frame.py", "R_COLUMNS"))
  cat(text, ":", colnames(model.matrix(as.formula(paste("~", text)), d)), "\n")
