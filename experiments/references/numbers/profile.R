## tests/test_profile.py: limits by lme4's profile of the ML criterion
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
limits <- function(label, formula, data) {
  m <- lme4::lmer(formula, data, REML = FALSE)
  ci <- suppressMessages(suppressWarnings(confint(m, oldNames = FALSE, quiet = TRUE)))
  for (name in rownames(ci)) say(paste(label, name), ci[name, ])
}
limits("dyestuff2", Yield ~ 1 + (1 | Batch), set("dyestuff2.csv"))
limits("orthodont", distance ~ age * Sex + (age | Subject), transform(set("orthodont.csv"), Sex = relevel(Sex, "Male")))
limits("penicillin", diameter ~ 1 + (1 | plate) + (1 | sample), set("penicillin.csv"))
say("the ends of curves at 99 percent", qnorm(0.995))
