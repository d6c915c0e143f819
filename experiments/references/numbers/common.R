## Data of the scripts in this folder, as the tests have them. Each script prints numbers that a test has typed in.
suppressPackageStartupMessages(library(lmerTest))
options(digits = 12, width = 140)
HERE <- dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
DATA <- file.path(HERE, "..", "..", "..", "tests", "references", "data")
set <- function(name) read.csv(file.path(DATA, name), stringsAsFactors = TRUE, na.strings = c("", "NA"))
say <- function(label, ...) cat(label, ": ", paste(format(c(...), digits = 12, trim = TRUE), collapse = " "), "\n", sep = "")

sleepstudy <- transform(set("sleepstudy.csv"), Subject = factor(Subject))

fev_data <- set("fev_data.csv")
number <- as.integer(factor(fev_data$USUBJID, sort(unique(as.character(fev_data$USUBJID)), method = "radix")))
fev_data$male <- as.integer(fev_data$SEX == "Male")
fev_data$w <- 1 + number %% 3
fev_data$o <- fev_data$FEV1_BL / 10
fev_data <- droplevels(fev_data[!is.na(fev_data$FEV1), ])
without_a_cell <- subset(fev_data, !(RACE == "White" & AVISIT == "VIS4"))
