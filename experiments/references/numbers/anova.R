## tests/test_anova.py
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
m <- lmer(FEV1 ~ RACE + SEX + ARMCD * AVISIT + FEV1_BL + (1 | USUBJID), fev_data)
m2 <- lmer(FEV1 ~ ARMCD * poly(FEV1_BL, 2) + SEX * log(WEIGHT) + (1 | USUBJID), fev_data)
for (type in 1:3) {
  a <- anova(m, type = type)
  say(paste("type", type, "den_df"), a$DenDF); say(paste("type", type, "F"), a$`F value`)
  say(paste("curved, type", type, "F"), anova(m2, type = type)$`F value`)
}
m4 <- lmer(FEV1 ~ RACE * AVISIT + (1 | USUBJID), without_a_cell)
for (type in 2:3) { a <- anova(m4, type = type); say(paste("empty cell, type", type, "F"), a$`F value`); say("den_df", a$DenDF) }
l <- nlme::lme(FEV1 ~ RACE + ARMCD * AVISIT + WEIGHT, random = ~ 1 | USUBJID, fev_data)
say("nlme DF", summary(l)$tTable[, "DF"])
